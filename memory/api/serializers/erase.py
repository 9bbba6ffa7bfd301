"""The body of POST /memory/erase."""

from __future__ import annotations

from memory.api.fields import StrictCharField, StrictSerializer
from memory.security import USER_ID_MAX_CHARS


class MemoryEraseRequest(StrictSerializer):
    """`confirm` is the user's own id, so that nothing is erased by a request that was meant for another address."""

    confirm = StrictCharField(max_chars=USER_ID_MAX_CHARS)

    default_error_messages = {"confirm": "Not the user id of the token."}

    def validate_confirm(self, confirm: str) -> str:
        if confirm != self.context["user_id"]:
            self.fail("confirm")
        return confirm
