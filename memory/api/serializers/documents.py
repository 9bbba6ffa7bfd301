"""The query string of GET /memory/documents."""

from __future__ import annotations

import re
from typing import Any

from django.http import QueryDict
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

from memory import limits as conf
from memory.api.fields import Identifier, StrictCharField, StrictInteger, Timestamp
from memory.services.listing import ListingFilters

LIMIT_DEFAULT, LIMIT_MAX = 50, 200
# A sealed position: a time, an id of 256 characters of up to 4 bytes each, and base64 on top. With every filter, each
# percent-encoded, it fits a request line of 8,190 bytes (deploy/gunicorn/gunicorn.conf.py).
CURSOR_MAX_CHARS = 1_500


class Cursor(StrictCharField):
    """A position in the listing, as it was given out; whether it is one shows when it is opened."""


class DecimalInteger(StrictInteger):
    """An integer as a query string has it: decimal digits, no sign, no leading zero."""

    def to_internal_value(self, data: Any) -> int:
        if not isinstance(data, str) or not re.fullmatch("0|[1-9][0-9]{0,8}", data):
            self.fail("invalid")
        return super().to_internal_value(int(data))


class MemoryDocumentsRequest(serializers.Serializer):
    """Which documents and how many. A parameter it does not know is ignored; one it knows stands at most once."""

    limit = DecimalInteger(min_value=1, max_value=LIMIT_MAX, default=LIMIT_DEFAULT)
    cursor = Cursor(max_chars=CURSOR_MAX_CHARS, default=None)
    source = Identifier(max_chars=conf.SOURCE_MAX_CHARS, default=None)  # type: ignore[assignment]
    thread_id = Identifier(max_chars=conf.THREAD_ID_MAX_CHARS, default=None)
    since = Timestamp(default=None)
    until = Timestamp(default=None)

    def to_internal_value(self, data: QueryDict) -> dict[str, Any]:
        repeated = {name: data.getlist(name) for name, _ in self.fields.items() if len(data.getlist(name)) > 1}
        if repeated:
            raise ValidationError({name: [ErrorDetail("Given more than once.", "invalid")] for name in repeated})
        # A plain dict: of a QueryDict, DRF would take an empty value for a missing one.
        return super().to_internal_value(data.dict())

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        filters = {name: attrs[name] for name in ("source", "thread_id", "since", "until")}
        return {"filters": ListingFilters(**filters), "limit": attrs["limit"], "cursor": attrs["cursor"]}
