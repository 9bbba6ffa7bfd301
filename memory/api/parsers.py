"""The one parser of the API: JSON, exactly."""

from __future__ import annotations

from typing import IO, Any

from django.http import UnreadablePostError
from rest_framework.parsers import BaseParser

from memory.api.json_body import parse_json
from memory.errors import MalformedJSON


class StrictJSONParser(BaseParser):
    """Parses `application/json` with `memory.api.json_body.parse_json`.

    The charset is always UTF-8 (RFC 8259, section 8.1): a `charset` parameter never chooses a codec.
    An empty body does not get here: DRF gives the view `{}`, and required fields are then missing.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: IO[bytes],
        media_type: str | None = None,
        parser_context: dict[str, Any] | None = None,
    ) -> Any:
        try:
            raw = stream.read()
        except UnreadablePostError:
            raise MalformedJSON("The body could not be read to its end.") from None
        return parse_json(raw)
