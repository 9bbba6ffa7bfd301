"""Numbers and booleans."""

from __future__ import annotations

import math
from typing import Any

from memory.api.fields.base import StrictField


class _Number(StrictField):
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
    """A JSON number without a fraction, from `min_value` to `max_value`; `3.0` is the integer 3, as in JSON Schema."""

    default_error_messages = {"invalid": "Not a valid integer."}

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, float) and data.is_integer():
            data = int(data)
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


class StrictBoolean(StrictField):
    """`true` or `false`; not 0, 1 or a word."""

    default_error_messages = {"invalid": "Not a valid boolean."}

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid")
        return data
