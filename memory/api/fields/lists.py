"""Lists."""

from __future__ import annotations

from typing import Any

from memory.api.fields.text import StringOrList


class StringList(StringOrList):
    """A list of 1 to `max_items` strings, each under the limits of a StrictCharField; one string alone is none."""

    default_error_messages = {"invalid": "Not a valid list of strings."}

    def to_internal_value(self, data: Any) -> list[str]:  # type: ignore[override]
        if not isinstance(data, list):
            self.fail("invalid")
        return super().to_internal_value(data)
