"""Server-sent events (WHATWG HTML, section 9.2) over a stream of answers.

An `EventStream` is the body of one streaming response. However it ends, the answer's iterator is closed and with it
the language model's connection, the slot is given back, and the outcome counted once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from django.conf import settings

from memory import metrics
from memory.api.responses import stream as answers
from memory.api.streaming.body import StreamedBody
from memory.api.streaming.client import StreamClient
from memory.errors import MemoryServiceError
from memory.problems import Outcome, outcome_of, reason_of
from memory.services.stream import Citations, Delta, Done, Silence, StreamEvent

HEARTBEAT_SECONDS = 10.0
HEARTBEAT = b": heartbeat\n\n"
MEDIA_TYPE = "text/event-stream"
# Always UTF-8, and said all the same: clients that are not told take text for ISO-8859-1.
CONTENT_TYPE = f"{MEDIA_TYPE}; charset=utf-8"


def frame(event: str, data: dict[str, Any], number: int) -> bytes:
    """One event in UTF-8. JSON holds no line break, so `data` is one line; a lone surrogate becomes `?`."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"id: {number}\nevent: {event}\ndata: {text}\n\n".encode(errors="replace")


class EventStream(StreamedBody):
    """Events as bytes; ends after exactly one `done` or `error`.

    Past MEMORY_STREAM_MAX_SECONDS the answer's iterator ends it with an error, between two events. An event that a
    slow reader has begun to take by then is broken off with TimeoutError, as a piece is that cannot be sent.
    `started` is the request's `time.perf_counter()`; `problem` makes the problem document of an exception; `variant`
    is the pipeline that the answer comes from.
    """

    def __init__(
        self,
        events: Iterator[StreamEvent],
        *,
        started: float,
        client: StreamClient,
        problem: Callable[[BaseException], dict[str, Any]],
        release: Callable[[], None],
        variant: str,
    ):
        self._variant = variant
        self._started = started
        self._problem = problem
        self._number = 0
        self._ttfv_ms: float | None = None
        self._outcome: str | None = None
        self._error_outcome: Outcome = "server"
        self._last_sent = time.monotonic()
        self._ends_at = self._last_sent + settings.MEMORY_STREAM_MAX_SECONDS
        self._is_within_event = False
        super().__init__(events, client=client, release=release)

    def __next__(self) -> bytes:
        while self._is_finished or not self._pieces:
            if self._outcome is not None or self._is_finished:
                self._finish()
                raise StopIteration
            self._advance()
        self._last_sent = time.monotonic()
        if self._is_within_event and self._last_sent >= self._ends_at:
            self._finish()
            raise TimeoutError("a stream's reader was too slow")
        piece = self._pieces.pop(0)
        self._is_within_event = bool(self._pieces)
        return piece

    def _finish(self) -> None:
        if self._is_finished:
            return
        try:
            super()._finish()
        finally:
            was_sent = self._outcome is not None and not self._pieces
            ended = self._outcome if was_sent else "aborted"
            if ended == "done":
                self.outcome = "ok"
            elif ended == "error":
                self.outcome = self._error_outcome
                metrics.errors.labels("stream", reason_of(self.outcome)).inc()
            metrics.streams.labels(self._variant, ended).inc()

    def _advance(self) -> None:
        try:
            event = next(self._source)
        except Exception as error:
            if isinstance(error, StopIteration):
                error = MemoryServiceError()
            problem = self._problem(error)
            self._error_outcome = outcome_of(problem["code"], is_own=getattr(error, "is_own", False))
            self._send("error", problem)
            self._outcome = "error"
            return
        match event:
            case Citations(found):
                self._send("citations", answers.citations(found))
            case Delta(text):
                if self._ttfv_ms is None:
                    self._ttfv_ms = self._elapsed_ms()
                    metrics.stream_ttfv_ms.labels(self._variant).observe(self._ttfv_ms)
                self._send("token", answers.delta(text))
            case Done():
                self._send("done", answers.done(event, ttfv_ms=self._ttfv_ms, total_ms=self._elapsed_ms()))
                self._outcome = "done"
            case Silence():
                if self._client.has_left():
                    self._outcome = "aborted"
                elif time.monotonic() - self._last_sent >= HEARTBEAT_SECONDS:
                    self._pieces.append(HEARTBEAT)

    def _send(self, event: str, data: dict[str, Any]) -> None:
        self._number += 1
        self._queue(frame(event, data, self._number))

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._started) * 1000
