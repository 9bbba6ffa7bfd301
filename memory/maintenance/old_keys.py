"""What still needs the data keys that newer ones have replaced, counted. Nobody's name, and no document's."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from memory.sealing.generations import IDEMPOTENCY_HOURS

_NEEDED_BY = """
WITH old AS (
    SELECT k.user_hash, k.generation FROM memory_data_keys k JOIN memory_tenants t USING (user_hash)
    WHERE k.generation <> t.generation AND (%(user_hash)s::text IS NULL OR k.user_hash = %(user_hash)s))
SELECT (SELECT count(*) FROM old),
    (SELECT count(*) FROM old JOIN memory_documents USING (user_hash, generation)),
    (SELECT count(*) FROM old JOIN memory_chunks c USING (user_hash, generation) WHERE c.quarantined_at IS NULL),
    (SELECT count(*) FROM old JOIN memory_chunks c USING (user_hash, generation) WHERE c.quarantined_at IS NOT NULL),
    (SELECT count(*) FROM old JOIN memory_idempotency a USING (user_hash, generation)
     WHERE a.created_at > now() - make_interval(hours => %(hours)s))"""


def needs_of_old_keys(connection: BaseDatabaseWrapper, user_hash: str | None = None) -> tuple[int, dict[str, int]]:
    """(old data keys, what needs them by its kind), of one user or of all. `connection` is r1_maint's.

    `quarantined_chunks` are not among `chunks`; `answers` are those to an Idempotency-Key of the last 24 hours.
    """
    with connection.cursor() as cursor:
        cursor.execute(_NEEDED_BY, {"user_hash": user_hash, "hours": IDEMPOTENCY_HOURS})
        keys, *counts = cursor.fetchone()
    return keys, dict(zip(("documents", "chunks", "quarantined_chunks", "answers"), counts, strict=True))
