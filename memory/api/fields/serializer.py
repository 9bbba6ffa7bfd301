"""The request body as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail, ValidationError


@cache
def _reader_of(kind: type[serializers.Serializer]) -> serializers.Serializer:
    return kind()


class StrictSerializer(serializers.Serializer):
    """A JSON object with no members but the declared ones; `user_id` is accepted with any value and dropped.

    An undeclared member is an error of its own, code `unknown_field`, beside those of the fields.
    """

    ignored_members = frozenset({"user_id"})
    # An error list is as long as the client makes it otherwise: a body holds 100,000 names.
    max_unknown_reported = 20

    @classmethod
    def read(cls, data: Any) -> Any:
        """The validated values of a request's body. Raises ValidationError.

        By one instance for all requests: its fields keep nothing of what they read, and to make them anew takes five
        times as long as to read a question. Not for a serializer with a context.
        """
        if data is None:  # `is_valid` words this one error itself; `run_validation` would say "may not be null".
            raise ValidationError({"non_field_errors": [ErrorDetail("No data provided", code="null")]})
        return _reader_of(cls).run_validation(data)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        if not isinstance(data, Mapping):
            return super().to_internal_value(data)
        errors: dict[str, Any] = {}
        try:
            values = super().to_internal_value(data)
        except ValidationError as refusal:
            if not isinstance(refusal.detail, dict):
                raise
            errors.update(refusal.detail)
        unknown = sorted(data.keys() - self.fields.keys() - self.ignored_members)
        for name in unknown[: self.max_unknown_reported]:
            errors[name] = [ErrorDetail("There is no such field.", code="unknown_field")]
        if errors:
            raise ValidationError(errors)
        return values
