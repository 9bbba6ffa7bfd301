"""When a document's time is up: from then on nobody sees it, and `prune_expired` deletes it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from memory.errors import FieldError, InvalidInput


def unexpired(row: str = "") -> str:
    """SQL: whether the time of a row of memory_documents or memory_chunks, called `row`, is not up."""
    column = f"{row}.expires_at" if row else "expires_at"
    return f"({column} IS NULL OR {column} > now())"


def refuse_expired(expiring: Iterable[tuple[str, datetime | None, datetime | None]]) -> None:
    """Raises InvalidInput unless each document lives: (field, created_at, expires_at), created now where that is None.

    One that lived once is taken, though nobody sees it: what an export gave can be indexed later.
    """
    now = datetime.now(UTC)
    detail = "It is not later than the moment that the text came to be."
    errors = [
        FieldError(field, "invalid", detail)
        for field, created_at, expires_at in expiring
        if expires_at is not None and expires_at <= (created_at or now)
    ]
    if errors:
        raise InvalidInput(errors, detail)
