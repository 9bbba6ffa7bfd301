"""Times."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from memory.api.fields.base import StrictField

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)


def rfc3339(moment: datetime) -> str:
    """An aware moment in UTC with a Z, as every time in an answer."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


class Timestamp(StrictField):
    """An RFC 3339 date-time with its offset, as an aware datetime in UTC, to the microsecond.

    The year, in UTC, is from `min_year` to `max_year`. Leap seconds (`:60`) are refused.
    """

    default_error_messages = {
        "invalid": "Not an RFC 3339 date-time with an offset, such as 2026-01-31T09:30:00Z.",
        "out_of_range": "The year must be between {min_year} and {max_year}.",
    }

    def __init__(self, *, min_year: int = 1900, max_year: int = 2199, **kwargs: Any):
        self.min_year = min_year
        self.max_year = max_year
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> datetime:
        if not isinstance(data, str) or not _RFC3339.fullmatch(data):
            self.fail("invalid")
        try:
            local = datetime.fromisoformat(data.upper())
        except ValueError:
            self.fail("invalid")
        try:
            instant = local.astimezone(UTC)
        except OverflowError:
            instant = None
        if instant is None or not self.min_year <= instant.year <= self.max_year:
            self.fail("out_of_range", min_year=self.min_year, max_year=self.max_year)
        return instant

    def to_representation(self, value: datetime) -> str:
        return rfc3339(value)
