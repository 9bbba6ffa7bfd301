"""Serializer fields that take a JSON value for what it is: nothing is converted, trimmed or normalised.

A `"3"` is no integer, `true` is no number, `" a "` keeps its spaces. What is refused could not be
stored (NUL and lone surrogates, in PostgreSQL text and UTF-8), told apart, or given back as sent.
Limits are parameters; messages are fixed sentences that never repeat the value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError

_CONTROL_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f]")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)


def is_storable_text(text: str) -> bool:
    """Whether PostgreSQL can hold `text` and UTF-8 can encode it: no NUL, no lone surrogate."""
    return "\x00" not in text and _utf8_bytes(text) is not None


def _utf8_bytes(text: str) -> int | None:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def rfc3339(moment: datetime) -> str:
    """An aware moment in UTC with a Z, as every time in an answer."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


class _StrictField(serializers.Field):
    """A field whose stored value is already what goes out."""

    def to_representation(self, value: Any) -> Any:
        return value

    def _refuse(self, message: str) -> NoReturn:
        """Fail with the sentence `message` under the code "invalid", the contract's for what cannot be kept."""
        raise ValidationError(self.error_messages[message], code="invalid")


class StrictCharField(_StrictField):
    """A string of `min_chars` to `max_chars` characters and at most `max_bytes` bytes of UTF-8, as sent.

    NUL and lone surrogates are always refused; with `control_characters=False`, for identifiers,
    so are all of category Cc (C0, DEL and C1).
    """

    default_error_messages = {
        "invalid": "Not a valid string.",
        "unstorable": "NUL characters and lone surrogates are not allowed.",
        "control_characters": "Control characters are not allowed.",
        "min_length": "At least {limit} character(s).",
        "max_length": "At most {limit} characters.",
        "max_bytes": "At most {limit} bytes of UTF-8.",
    }

    def __init__(
        self,
        *,
        min_chars: int = 1,
        max_chars: int | None = None,
        max_bytes: int | None = None,
        control_characters: bool = True,
        **kwargs: Any,
    ):
        self.min_chars = min_chars
        self.max_chars = max_chars
        self.max_bytes = max_bytes
        self.control_characters = control_characters
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        if len(data) < self.min_chars:
            self.fail("min_length", limit=self.min_chars)
        if self.max_chars is not None and len(data) > self.max_chars:
            self.fail("max_length", limit=self.max_chars)
        size_bytes = _utf8_bytes(data)
        if size_bytes is None or "\x00" in data:
            self._refuse("unstorable")
        if self.max_bytes is not None and size_bytes > self.max_bytes:
            self.fail("max_bytes", limit=self.max_bytes)
        if not self.control_characters and _CONTROL_CHARACTERS.search(data):
            self._refuse("control_characters")
        return data


class _Number(_StrictField):
    default_error_messages = {
        "min_value": "At least {limit}.",
        "max_value": "At most {limit}.",
    }

    def __init__(self, *, min_value: float | None = None, max_value: float | None = None, **kwargs: Any):
        self.min_value = min_value
        self.max_value = max_value
        super().__init__(**kwargs)

    def _within_limits(self, number: Any) -> Any:
        if self.min_value is not None and number < self.min_value:
            self.fail("min_value", limit=self.min_value)
        if self.max_value is not None and number > self.max_value:
            self.fail("max_value", limit=self.max_value)
        return number


class StrictInteger(_Number):
    """A JSON number written without fraction or exponent, from `min_value` to `max_value`."""

    default_error_messages = {"invalid": "Not a valid integer."}

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return self._within_limits(data)


class StrictFloat(_Number):
    """Any finite JSON number, as a float, from `min_value` to `max_value`."""

    default_error_messages = {"invalid": "Not a valid number."}

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            self.fail("invalid")
        try:
            number = float(data)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            self.fail("invalid")
        return self._within_limits(number)


class StrictBoolean(_StrictField):
    """`true` or `false`; not 0, 1 or a word."""

    default_error_messages = {"invalid": "Not a valid boolean."}

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid")
        return data


class MetadataField(_StrictField):
    """A JSON object that comes back exactly as it was sent.

    At most `max_bytes` as compact UTF-8 JSON, nested at most `max_depth` levels, itself the first.
    Integers fit 64 bits signed: they come back exact here, while a client that reads numbers as
    doubles (RFC 8259, section 6) keeps only those up to 2**53. Floats are finite.
    """

    default_error_messages = {
        "invalid": "Not a valid JSON object.",
        "unstorable": "NUL characters and lone surrogates are not allowed.",
        "max_bytes": "At most {limit} bytes as compact JSON.",
        "max_depth": "At most {limit} levels.",
        "number": "Integers must fit 64 bits, other numbers must be finite.",
    }

    def __init__(self, *, max_bytes: int = 64 * 1024, max_depth: int = 8, **kwargs: Any):
        self.max_bytes = max_bytes
        self.max_depth = max_depth
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail("invalid")
        try:
            compact = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        except RecursionError:
            self.fail("max_depth", limit=self.max_depth)
        except (TypeError, ValueError):
            self.fail("invalid")
        size_bytes = _utf8_bytes(compact)
        if size_bytes is None:
            self._refuse("unstorable")
        if size_bytes > self.max_bytes:
            self.fail("max_bytes", limit=self.max_bytes)
        for depth, value in _walk(data):
            self._check(depth, value)
        return data

    def _check(self, depth: int, value: Any) -> None:
        if isinstance(value, dict | list):
            if depth > self.max_depth:
                self.fail("max_depth", limit=self.max_depth)
            if isinstance(value, dict):
                for name in value:
                    if not isinstance(name, str):
                        self.fail("invalid")
                    if not is_storable_text(name):
                        self._refuse("unstorable")
        elif isinstance(value, str):
            if not is_storable_text(value):
                self._refuse("unstorable")
        elif isinstance(value, int | float) and not _is_exact(value):
            self._refuse("number")


def _is_exact(number: int | float) -> bool:
    return INT64_MIN <= number <= INT64_MAX if isinstance(number, int) else math.isfinite(number)


def _walk(root: Any) -> Iterator[tuple[int, Any]]:
    """Every value under `root` with the number of containers around it, itself counted."""
    pending = [(1, root)]
    while pending:
        depth, value = pending.pop()
        yield depth, value
        if isinstance(value, dict):
            pending.extend((depth + 1, child) for child in value.values())
        elif isinstance(value, list):
            pending.extend((depth + 1, child) for child in value)


class StringOrList(StrictCharField):
    """One string, or a list of 1 to `max_items` strings under the same limits; the value is a list of strings."""

    default_error_messages = {
        "invalid": "Not a valid string or list of strings.",
        "min_items": "At least one item.",
        "max_items": "At most {limit} items.",
    }

    def __init__(self, *, max_items: int = 100, **kwargs: Any):
        self.max_items = max_items
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> list[str]:  # type: ignore[override]
        if not isinstance(data, list):
            return [super().to_internal_value(data)]
        if not data:
            self.fail("min_items")
        if len(data) > self.max_items:
            self.fail("max_items", limit=self.max_items)
        errors: dict[int, Any] = {}
        for index, item in enumerate(data):
            try:
                super().to_internal_value(item)
            except ValidationError as refusal:
                errors[index] = refusal.detail
        if errors:
            raise ValidationError(errors)
        return data


class Timestamp(_StrictField):
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


class StrictSerializer(serializers.Serializer):
    """A JSON object with no members but the declared ones; `user_id` is accepted with any value and dropped.

    An undeclared member is an error of its own, code `unknown_field`, beside those of the fields.
    """

    ignored_members = frozenset({"user_id"})
    # An error list is as long as the client makes it otherwise: a body holds 100,000 names.
    max_unknown_reported = 20

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)
        errors: dict[str, Any] = {}
        try:
            values = super().to_internal_value(data)
        except ValidationError as refusal:
            errors.update(refusal.detail)
        unknown = sorted(data.keys() - self.fields.keys() - self.ignored_members)
        for name in unknown[: self.max_unknown_reported]:
            errors[name] = [ErrorDetail("There is no such field.", code="unknown_field")]
        if errors:
            raise ValidationError(errors)
        return values
