"""One statement of staff's that may read many rows, for so long and no longer."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError, connections, transaction

# query_canceled: its time was up.
_CANCELED = "57014"


def rows_within(milliseconds: int, sql: str, params: list[Any] | None = None) -> list[tuple] | None:
    """Its rows, read as r1_staff; None where PostgreSQL took longer. Raises other database errors."""
    try:
        with transaction.atomic(using="staff"), connections["staff"].cursor() as cursor:
            cursor.execute(f"SET LOCAL statement_timeout = {milliseconds}")
            cursor.execute(sql, params)
            return cursor.fetchall()
    except DatabaseError as exc:
        if getattr(exc.__cause__, "sqlstate", None) != _CANCELED:
            raise
        return None
