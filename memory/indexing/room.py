"""A look at the quota before any work is done, only to spare the work: the transaction that stores decides."""

from __future__ import annotations

from collections.abc import Sequence

from memory.admission.quota import has_room, require_room
from memory.indexing.derived import chunks_replaced
from memory.rls import TenantState, tenant_transaction


def require_room_for(user_hash: str, state: TenantState | None, doc_ids: Sequence[str], chunks: int) -> None:
    """Raise QuotaExceeded where the user has no room now for `chunks` as the new version of these documents.

    `state`: the tenant's, where it was read a moment ago. Only near the quota is the database asked what would be
    replaced. Its connection stays this thread's, for the charge of these chunks, which comes next.
    """
    if state is None:
        with tenant_transaction(user_hash, keeps_connection=True) as tx:
            tx.end()
            state = tx.state()
    if has_room(state.chunk_count if state else 0, chunks):
        return
    with tenant_transaction(user_hash, keeps_connection=True) as tx:
        replaced = chunks_replaced(tx, doc_ids)
        tx.end()
        state = tx.state()
        stored = state.chunk_count if state else 0
        require_room(stored, stored - replaced.fetchone()[0] + chunks)
