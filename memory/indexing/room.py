"""A look at the quota before any work is done, only to spare the work: the transaction that stores decides."""

from __future__ import annotations

from collections.abc import Sequence

from memory.admission.quota import has_room, require_room
from memory.indexing.derived import chunks_replaced
from memory.rls import TenantState, tenant_transaction


def require_room_for(state: TenantState | None, doc_ids: Sequence[str], chunks: int) -> None:
    """Raise QuotaExceeded where the bound tenant has no room now for `chunks` as the new version of these documents.

    `state`: the tenant's, read a moment ago. Only near the quota is the database asked what would be replaced.
    """
    if has_room(state.chunk_count if state else 0, chunks):
        return
    with tenant_transaction() as tx:
        replaced = chunks_replaced(tx, doc_ids)
        tx.end()
        state = tx.state()
        stored = state.chunk_count if state else 0
        require_room(stored, stored - replaced.fetchone()[0] + chunks)
