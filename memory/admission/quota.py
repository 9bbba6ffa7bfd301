"""How much one user may store: at most MEMORY_MAX_CHUNKS_PER_USER chunks, summaries' included.

The transaction that stores decides, by the count in the tenant's row, which it has locked: so writers at once cannot
pass the quota together. `require_room_for` looks at it before any work is done, only to spare the work. Who is over a
quota that was lowered can still do all that does not store more: read, delete, replace by as much or less.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.conf import settings

from memory.errors import QuotaExceeded
from memory.indexing.derived import chunks_replaced
from memory.rls import TenantState, tenant_transaction


def require_room(stored: int, after: int) -> None:
    """Raise QuotaExceeded where a user of `stored` chunks would have `after`: more than before and than the quota."""
    quota = settings.MEMORY_MAX_CHUNKS_PER_USER
    if after > quota and after > stored:
        raise QuotaExceeded(f"A user may store {quota} chunks; {stored} are stored, and with this it would be {after}.")


def require_room_for(state: TenantState | None, doc_ids: Sequence[str], chunks: int) -> None:
    """Raise QuotaExceeded where the bound tenant has no room now for `chunks` as the new version of these documents.

    `state`: the tenant's, read a moment ago. Only near the quota is the database asked what would be replaced.
    """
    stored = state.chunk_count if state else 0
    if stored + chunks <= settings.MEMORY_MAX_CHUNKS_PER_USER:
        return
    with tenant_transaction() as tx:
        replaced = chunks_replaced(tx, doc_ids)
        tx.end()
        state = tx.state()
        stored = state.chunk_count if state else 0
        require_room(stored, stored - replaced.fetchone()[0] + chunks)
