"""Users by their hash, page by page, as r1_maint sees them; what is done to each is done as r1_app, bound to him."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

PAGE_USERS = 500


def users_where(connection: BaseDatabaseWrapper, sql: str, params: Mapping[str, Any]) -> Iterator[str]:
    """The hashes that `sql` finds. It names `%(after)s`, behind which it looks, is in order, and ends before LIMIT.

    Each page is a statement of its own, so no transaction stays open while the users' turn comes.
    """
    after = ""
    while True:
        with connection.cursor() as cursor:
            cursor.execute(f"{sql} LIMIT {PAGE_USERS}", {**params, "after": after})
            page = [user_hash for (user_hash,) in cursor.fetchall()]
        yield from page
        if len(page) < PAGE_USERS:
            return
        after = page[-1]
