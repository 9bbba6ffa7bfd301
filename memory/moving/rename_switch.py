"""The one transaction that makes a user's new name his, as r1_maint: the only one that must see both names at once."""

from __future__ import annotations

from uuid import uuid4

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from memory.moving.move import Move, note_renamed
from memory.moving.renamed_keys import require_standing
from memory.moving.versions import pending_now
from memory.sealing.profile import TenantProfile

# Requests wait for what is locked, for 1.5 s at most: who waits longer for them begins anew.
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '1500ms'"
_NEW_ROW = "SELECT true FROM memory_tenants WHERE user_hash = %s AND state = 'moving' FOR UPDATE"
# Every live generation has been wrapped for the new name, and the newest is the newest there.
_SAME_KEYS = """
SELECT ARRAY(SELECT generation FROM memory_data_keys WHERE user_hash = %(user_hash)s ORDER BY generation)
     <@ ARRAY(SELECT generation FROM memory_data_keys WHERE user_hash = %(target_hash)s ORDER BY generation)
   AND (SELECT generation FROM memory_tenants WHERE user_hash = %(user_hash)s)
     = (SELECT generation FROM memory_tenants WHERE user_hash = %(target_hash)s)"""
_STATEMENTS = (
    # Both names' seals are of the same keys, so they count together.
    """
    UPDATE memory_tenants n SET
        state = 'active', profile = %(version)s, document_count = o.document_count, chunk_count = o.chunk_count,
        seal_count = n.seal_count + o.seal_count, updated_at = now()
    FROM memory_tenants o WHERE n.user_hash = %(target_hash)s AND o.user_hash = %(user_hash)s""",
    """
    UPDATE memory_data_keys n SET seal_count = n.seal_count + o.seal_count, created_at = o.created_at
    FROM memory_data_keys o
    WHERE n.user_hash = %(target_hash)s AND o.user_hash = %(user_hash)s AND n.generation = o.generation""",
    """
    DELETE FROM memory_data_keys n WHERE n.user_hash = %(target_hash)s AND NOT EXISTS (
        SELECT FROM memory_data_keys o WHERE o.user_hash = %(user_hash)s AND o.generation = n.generation)""",
    """
    INSERT INTO memory_rate_buckets (user_hash, bucket, tokens, updated_at)
    SELECT %(target_hash)s, bucket, tokens, updated_at FROM memory_rate_buckets WHERE user_hash = %(user_hash)s
    ON CONFLICT (user_hash, bucket) DO UPDATE SET tokens = excluded.tokens, updated_at = excluded.updated_at""",
    # An index of the old name's has none of his chunks any more.
    """
    UPDATE memory_tenants SET
        state = 'moved', moved_to = %(target_hash)s, profile = %(old_version)s, indexed_space = NULL,
        indexed_seals = NULL, updated_at = now()
    WHERE user_hash = %(user_hash)s""",
)


class Switch:
    """A transaction that holds the lock of the user's row under his old name; nobody writes there until its end.

    Raises MoveLost, StaleKeys at its beginning, as `require_standing`, and database errors.
    """

    def __init__(self, maint: BaseDatabaseWrapper, move: Move, profile: TenantProfile):
        self._maint = maint
        self._move = move
        self._profile = profile

    def __enter__(self) -> Switch:
        self._atomic = transaction.atomic(using=self._maint.alias)
        self._atomic.__enter__()
        try:
            self._cursor = self._maint.cursor()
            self._cursor.execute(_LOCK_TIMEOUT)
            require_standing(self._cursor, self._move, self._profile)
        except BaseException as exc:
            self._atomic.__exit__(type(exc), exc, exc.__traceback__)
            raise
        return self

    def __exit__(self, *error) -> None:
        self._cursor.close()
        self._atomic.__exit__(*error)

    def pending(self, *, limit: int) -> list[tuple[str, bool]]:
        """As `pending_now`."""
        return pending_now(self._cursor.cursor, self._move, limit=limit)

    def make(self) -> bool:
        """Make the new name his, with the end of the block; False, with nothing done, where its keys are not his."""
        names = {"user_hash": self._move.user_hash, "target_hash": self._move.target_hash}
        self._cursor.execute(_NEW_ROW, [self._move.target_hash])
        if self._cursor.fetchone() is None:
            return False
        self._cursor.execute(_SAME_KEYS, names)
        if not self._cursor.fetchone()[0]:
            return False
        for statement in _STATEMENTS:
            self._cursor.execute(statement, {**names, "version": uuid4(), "old_version": uuid4()})
        note_renamed(self._cursor.cursor, self._move)
        return True
