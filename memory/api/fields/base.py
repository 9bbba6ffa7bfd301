"""What the fields share."""

from __future__ import annotations

from typing import Any, NoReturn

from rest_framework import serializers
from rest_framework.exceptions import ValidationError


class StrictField(serializers.Field):
    """A field whose stored value is already what goes out."""

    def to_representation(self, value: Any) -> Any:
        return value

    def refuse(self, message: str) -> NoReturn:
        """Fail with the sentence `message` under the code "invalid", the contract's for what cannot be kept."""
        raise ValidationError(self.error_messages[message], code="invalid")
