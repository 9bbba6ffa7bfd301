"""The one parser of the API: JSON, exactly, and in time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from django.http import UnreadablePostError
from rest_framework.parsers import BaseParser

from memory.admission.cutoff import reading_until
from memory.admission.deadline import remaining_seconds
from memory.admission.turns import Turns
from memory.errors import BodyTooSlow, MalformedJSON, TenantNotBound
from memory.formats.strict_json import parse_json
from memory.rls import bound_tenant
from memory.sealing.names import are_being_renamed

# A body above this is parsed in its turn, for which it waits so long at most.
LARGE_BODY_BYTES = 16 * 1024
LARGE_BODY_SECONDS = 10.0
_large = Turns(1)


class StrictJSONParser(BaseParser):
    """Parses `application/json` with `memory.formats.strict_json.parse_json`.

    The charset is always UTF-8 (RFC 8259, section 8.1): a `charset` parameter never chooses a codec.
    An empty body does not get here: DRF gives the view `{}`, and required fields are then missing.
    The whole body must be there within MEMORY_BODY_SECONDS and the request's deadline; else BodyTooSlow.
    Sets `is_body_read` on Django's request once it is, which says that the connection may go on.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        request = (parser_context or {}).get("request")
        raw = stream.read() if request is None else _read_in_time(stream, request)
        return parse_json(raw) if len(raw) <= LARGE_BODY_BYTES else _parse_in_turn(raw)


def _parse_in_turn(raw: bytes) -> Any:
    """`parse_json` for a large body, which is one call that no other thread can interrupt.

    So bodies of that kind wait for each other, users in turn, and after each the interpreter is left to the others for
    as long. Raises Overloaded where the request's time is over first.
    """
    try:
        user_hash = bound_tenant()
    except TenantNotBound:
        # Of an address without a token: all of those take turns as one user.
        user_hash = ""
    with _large.taking(user_hash, patience_seconds=LARGE_BODY_SECONDS):
        started = time.perf_counter()
        try:
            return parse_json(raw)
        finally:
            time.sleep(time.perf_counter() - started)


def _read_in_time(stream: IO[bytes], request) -> bytes:
    ends_at = time.monotonic() + remaining_seconds(settings.MEMORY_BODY_SECONDS)
    with reading_until(request.META.get("gunicorn.socket"), ends_at) as cutoff:
        try:
            raw = stream.read()
        except UnreadablePostError:
            raw = None
    if cutoff is not None and cutoff.has_fired:
        raise BodyTooSlow()
    if raw is None or len(raw) < int(request.META.get("CONTENT_LENGTH") or 0):
        raise MalformedJSON("The body could not be read to its end.")
    request._request.is_body_read = True
    if are_being_renamed():
        # Whoever is renamed under way has his request carried out once more.
        request._request.raw_body = raw
    return raw
