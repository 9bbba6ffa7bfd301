"""The language model that writes answers and summaries, where a deployment has one.

Any server that speaks OpenAI's chat completions, streamed (`POST <base>/chat/completions` with
`"stream": true`, server-sent events up to `data: [DONE]`). Nothing that goes there or comes back is
logged, and it goes to that address only: no redirect is followed and no proxy of the environment asked.
"""

from __future__ import annotations

import logging
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings

from memory.errors import LanguageModelError
from memory.language.llm_breaker import ServerBreaker
from memory.language.llm_stream import LanguageStream

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

# Tokens have about 4 characters; a model that goes on past this does not heed max_tokens.
MAX_CHARS_PER_TOKEN = 16
# Their records hold whole requests. OPENAI_LOG in the environment would switch the first one on at its import.
_TALKATIVE_LOGGERS = ("openai", "httpx", "httpcore", "httpx2", "httpcore2")


@dataclass(frozen=True)
class Generated:
    """A whole answer. `usage` holds `prompt_tokens` and `completion_tokens` where the server counts them."""

    text: str
    finish_reason: str
    usage: dict[str, int]


class LanguageModel:
    """A chat model behind one address; any thread may use it, each call has a connection of its own.

    `timeout_seconds` bounds a whole answer, `stall_seconds` any silence in it. Connections are not
    kept: one that the server closed meanwhile would fail the next call, as nothing is tried twice. A server that hangs
    is left alone for a while, by the user for whom it hangs or by everybody (`ServerBreaker`): until then calls fail at
    once, `unavailable`.
    """

    def __init__(self, base_url: str, *, api_key: str, model: str, timeout_seconds: float, stall_seconds: float):
        import certifi
        import httpx2
        import openai

        for name in _TALKATIVE_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        # The machine's own authorities, and the usual ones where it has none.
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(certifi.where())
        self._model = model
        self._timeout_seconds = timeout_seconds
        self._stall_seconds = stall_seconds
        self._counts_usage = True
        self._breaker = ServerBreaker()
        self._calling = threading.local()
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            max_retries=0,
            http_client=httpx2.Client(
                follow_redirects=False,
                trust_env=False,
                verify=trusted,
                timeout=httpx2.Timeout(stall_seconds),
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
                headers={"Accept-Encoding": "identity"},
                event_hooks={"request": [self._watch_connection], "response": [self._limit_body]},
            ),
        )

    def complete(self, messages: list[dict[str, str]], *, max_tokens: int, user: str) -> Generated:
        """The whole answer to `messages` (`{role, content}` each) that `user` asks for. Raises LanguageModelError."""
        with self.stream(messages, max_tokens=max_tokens, user=user) as stream:
            text = "".join(stream)
            return Generated(text, stream.finish_reason, stream.usage)

    def stream(self, messages: list[dict[str, str]], *, max_tokens: int, user: str) -> LanguageStream:
        """The answer as it is written. Close it, or use it in a `with`: its connection lives until then.

        Raises LanguageModelError, `unavailable` alone.
        """
        admitted = self._breaker.admit(user)
        if admitted is None:
            raise LanguageModelError("unavailable")
        try:
            return LanguageStream(
                lambda stream: self._call(stream, messages, max_tokens),
                timeout_seconds=self._timeout_seconds,
                stall_seconds=self._stall_seconds,
                max_chars=MAX_CHARS_PER_TOKEN * max_tokens,
                on_word=admitted.word,
                on_end=admitted.end,
            )
        except BaseException:  # no thread to be had: of a probe, nobody but this call could say how it ended
            admitted.end(None)
            raise

    def _call(self, stream: LanguageStream, messages: list[dict[str, str]], max_tokens: int) -> Any:
        """The events of one call, made in the stream's own thread.

        Token counts are asked for. A server that refuses the request is asked again without them; if it accepts
        that, it is never asked for them again.
        """
        import openai

        self._calling.stream = stream
        chat = cast("list[ChatCompletionMessageParam]", messages)

        def create(**options: Any) -> Any:
            return self._client.chat.completions.create(
                model=self._model,
                messages=chat,
                max_tokens=max_tokens,
                stream=True,
                **options,
            )

        if not self._counts_usage:
            return create()
        try:
            return create(stream_options={"include_usage": True})
        except (openai.BadRequestError, openai.UnprocessableEntityError):
            events = create()
            self._counts_usage = False
            return events

    def _watch_connection(self, request: Any) -> None:
        """Tell the stream its socket as soon as there is one, so that it can be closed from another thread."""
        request.extensions["trace"] = _socket_finder(self._calling.stream.connected)

    def _limit_body(self, response: Any) -> None:
        response.stream = self._calling.stream.limited(response.stream, response.headers)


def _socket_finder(found: Callable[[Any], None]) -> Callable[[str, dict], None]:
    """A trace function of httpcore: `found(socket)` for the TCP socket, then for the TLS one over it."""

    def trace(event: str, info: dict) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            found(info["return_value"].get_extra_info("socket"))

    return trace


def language_model() -> LanguageModel | None:
    """The process's language model from settings, or None where MEMORY_LLM_BASE_URL is empty."""
    if not settings.MEMORY_LLM_BASE_URL:
        return None
    return _client_for(
        os.getpid(),
        settings.MEMORY_LLM_BASE_URL,
        settings.MEMORY_LLM_API_KEY,
        settings.MEMORY_LLM_MODEL,
        settings.MEMORY_LLM_TIMEOUT_SECONDS,
        settings.MEMORY_LLM_STALL_SECONDS,
    )


def forget_language_model() -> None:
    """Make it anew at the next call. For tests, which change what one process knows of its server."""
    _client_for.cache_clear()


@lru_cache(maxsize=1)
def _client_for(_pid: int, base_url: str, api_key: str, model: str, timeout_seconds: float, stall_seconds: float):
    return LanguageModel(
        base_url, api_key=api_key, model=model, timeout_seconds=timeout_seconds, stall_seconds=stall_seconds
    )
