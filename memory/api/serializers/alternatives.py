"""Bodies that name what they are about in one of several ways."""

from __future__ import annotations

from typing import Any

from rest_framework.exceptions import ErrorDetail, ValidationError


def exactly_one(attrs: dict[str, Any], *names: str) -> str:
    """The one of `names` that is not None. Raises a ValidationError on those given, or on all of them when none is."""
    given = [name for name in names if attrs[name] is not None]
    if len(given) == 1:
        return given[0]
    message = f"Exactly one of {', '.join(names)}."
    raise ValidationError({name: [ErrorDetail(message, code="invalid")] for name in given or names})
