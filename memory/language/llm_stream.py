"""One answer of a language model while it is being written.

A thread of its own reads the connection; whoever consumes the answer waits on a condition with the
clock in hand. So time limits hold to the millisecond however the server dribbles, waiting can be
interrupted for a heartbeat, and `close()` from any thread ends the socket and with it the reader.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from memory.errors import LanguageModelError

# An event of one token is some 300 bytes.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_FINISH_REASONS = frozenset({"stop", "length", "content_filter"})
_COUNTS = ("prompt_tokens", "completion_tokens")


class Events(Protocol):
    """What a call gives, as it comes; its connection lives until `close()`."""

    def __iter__(self) -> Iterator[Any]: ...

    def close(self) -> object: ...


class LanguageStream:
    """Deltas of text, none of them empty; `finish_reason` and `usage` are there once they have ended.

    Raises LanguageModelError at the delta where something went wrong: `timeout` past `timeout_seconds`
    for all of it, `stalled` after `stall_seconds` without an event, `unreachable` for a connection that
    is refused or cut, `refused` for a status other than 200 or an error event, `malformed` for what is
    no stream or has no text, `too_long` past `max_chars` characters or MAX_ANSWER_BYTES.
    `on_word` is called at the first text. `on_end` is called once: with that word, with "" where the server answered
    (and if it was still writing at the `timeout`, it did), with None where it was closed before anything was known.
    """

    def __init__(
        self,
        call: Callable[[LanguageStream], Events],
        *,
        timeout_seconds: float,
        stall_seconds: float,
        max_chars: int,
        on_word: Callable[[], None] = lambda: None,
        on_end: Callable[[str | None], None] = lambda reason: None,
    ):
        self.finish_reason = ""
        self.usage: dict[str, int] = {}
        self._stall_seconds = stall_seconds
        self._left_chars = max_chars
        self._changed = threading.Condition()
        # Bounded by max_chars, as no delta is empty.
        self._deltas: deque[str] = deque()
        self._error: LanguageModelError | None = None
        self._ended = False
        self._closed = False
        self._on_word: Callable[[], None] | None = on_word
        self._on_end = on_end
        self._has_told = False
        self._socket: socket.socket | None = None
        self._has_begun = False
        self._last_event = time.monotonic()
        self._deadline = self._last_event + timeout_seconds
        self._reader = threading.Thread(target=self._read, args=(call,), name="language-model", daemon=True)
        self._reader.start()

    def __enter__(self) -> LanguageStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        while (delta := self.poll(None)) is not None:
            yield delta

    def poll(self, wait_seconds: float | None) -> str | None:
        """The next delta; "" when none came within `wait_seconds`; None at the end of the answer."""
        wait_until = None if wait_seconds is None else time.monotonic() + wait_seconds
        with self._changed:
            while True:
                if self._deltas:
                    return self._deltas.popleft()
                if self._error is not None:
                    raise self._error
                if self._ended or self._closed:
                    return None
                now = time.monotonic()
                silent_until = self._last_event + self._stall_seconds
                if now >= min(self._deadline, silent_until):
                    self._fail("timeout" if now >= self._deadline else "stalled")
                elif wait_until is not None and now >= wait_until:
                    return ""
                else:
                    self._changed.wait(min(self._deadline, silent_until, wait_until or self._deadline) - now)

    def close(self) -> None:
        """End it: the socket is shut at once, the reader soon after. Any thread, any number of times."""
        with self._changed:
            self._closed = True
            self._tell("" if self._has_begun else None)
            self._hang_up()
            self._changed.notify_all()

    def connected(self, connection: socket.socket) -> None:
        """The reader has a connection: this is its socket."""
        with self._changed:
            self._socket = connection
            if self._closed or self._error is not None:
                self._hang_up()

    def limited(self, body: Any, headers: Any) -> Any:
        """The response's body, that ends with an error past MAX_ANSWER_BYTES or where it is compressed."""
        from httpx2 import SyncByteStream

        class Limited(SyncByteStream):
            def __iter__(self) -> Iterator[bytes]:
                if headers.get("Content-Encoding", "identity") != "identity":
                    raise LanguageModelError("malformed")
                left_bytes = MAX_ANSWER_BYTES
                for block in body:
                    left_bytes -= len(block)
                    if left_bytes < 0:
                        raise LanguageModelError("too_long")
                    yield block

            def close(self) -> None:
                body.close()

        return Limited()

    def _read(self, call: Callable[[LanguageStream], Events]) -> None:
        try:
            events = call(self)
            with contextlib.closing(events):
                is_answer = self._take(events)
            with self._changed:
                if not is_answer:
                    self._fail("malformed")
                elif not self.finish_reason:
                    self._fail("unreachable")
                self._ended = True
                self._tell("")
                self._changed.notify_all()
        except Exception as error:  # whatever it is, it is the server's doing: a stream has no other input
            with self._changed:
                self._fail(_reason(error))

    def _take(self, events: Iterable[Any]) -> bool:
        """Queue the text of all events; whether there was any."""
        is_answer = False
        for event in events:
            choice = event.choices[0] if event.choices else None
            text = (choice.delta.content or "") if choice else ""
            if not isinstance(text, str):
                raise LanguageModelError("malformed")
            with self._changed:
                if self._closed or self._error is not None:
                    return is_answer
                self._last_event = time.monotonic()
                self._has_begun = True
                if choice and choice.finish_reason:
                    self.finish_reason = choice.finish_reason if choice.finish_reason in _FINISH_REASONS else "stop"
                if event.usage:
                    counts = {name: getattr(event.usage, name, None) for name in _COUNTS}
                    self.usage = {name: count for name, count in counts.items() if type(count) is int and count >= 0}
                self._left_chars -= len(text)
                if self._left_chars < 0:
                    raise LanguageModelError("too_long")
                if text:
                    is_answer = is_answer or bool(text.strip())
                    if self._on_word is not None:
                        self._on_word()
                        self._on_word = None
                    self._deltas.append(text)
                    self._changed.notify_all()
        return is_answer

    def _fail(self, reason: str) -> None:
        """The first failure counts; what the hang-up then does to the reader does not."""
        if self._error is None and not self._closed:
            self._error = LanguageModelError(reason)
            self._tell("" if reason == "timeout" and self._has_begun else reason)
        self._hang_up()
        self._changed.notify_all()

    def _tell(self, reason: str | None) -> None:
        if not self._has_told:
            self._has_told = True
            self._on_end(reason)

    def _hang_up(self) -> None:
        if self._socket is not None:
            # Of the plain socket: SSLSocket.shutdown would drop the TLS state under the reader's feet.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _reason(error: BaseException) -> str:
    """One word for what the client library raised."""
    import httpx2
    import openai

    causes = [error]
    while causes[-1].__cause__ is not None and len(causes) < 10:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, LanguageModelError):
            return cause.reason
        if isinstance(cause, httpx2.ReadTimeout):
            return "stalled"
    if isinstance(error, openai.APIConnectionError | httpx2.TransportError):
        return "unreachable"
    # An APIError that is no status is an error event in the stream.
    return "refused" if isinstance(error, openai.APIError) else "malformed"
