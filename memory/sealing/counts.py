"""The counts in a tenant's row, said here and nowhere else: documents, chunks, and how often the newest key has sealed.

Whoever adds or removes rows in a transaction counts them in it, under the lock of the tenant's row that every write
takes first, so that no count drifts.
"""

from __future__ import annotations

from memory import metrics
from memory.errors import KeyUnavailable
from memory.isolation.connection import Cursor
from memory.rls import TenantState, TenantTransaction

SEALS_ALERT = 2**31
SEALS_REFUSE = 2**32  # NIST SP 800-38D, 8.3: random 96-bit nonces under one key
_SPENT = "This user's key has sealed as much as it may; rotate it."

_COUNT = """
UPDATE memory_tenants SET
    document_count = document_count + %s, chunk_count = chunk_count + %s, seal_count = seal_count + %s,
    updated_at = now()
WHERE user_hash = %s
RETURNING chunk_count, seal_count"""
_COUNT_OLD_SEALS = """
UPDATE memory_data_keys SET seal_count = seal_count + %s WHERE user_hash = %s AND generation = %s
RETURNING seal_count"""


def count(tx: TenantTransaction, *, documents: int = 0, chunks: int = 0, seals: int = 0) -> Cursor:
    """Queue what this transaction adds to the tenant's counts, or takes away. `seals`: by the newest data key.

    Whoever has sealed reads the cursor by `counted`, or has seen that there is room for more than one transaction can.
    """
    return tx.execute(_COUNT, [documents, chunks, seals, tx.user_hash])


def counted(cursor: Cursor) -> int:
    """How many chunks the tenant has now; waits for the server.

    Raises KeyUnavailable when the newest key has sealed more often than it may: the transaction must not be committed.
    """
    chunk_count: int
    chunk_count, seal_count = cursor.fetchone()
    if seal_count > SEALS_REFUSE:
        raise KeyUnavailable(_SPENT)
    return chunk_count


def count_old_seals(tx: TenantTransaction, generation: int, seals: int) -> None:
    """Count what a generation that is not the newest has sealed now; waits for the server.

    Raises KeyUnavailable when it may seal no more; the transaction must not be committed then.
    """
    [seal_count] = tx.execute(_COUNT_OLD_SEALS, [seals, tx.user_hash, generation]).fetchone()
    if seal_count > SEALS_REFUSE:
        raise KeyUnavailable("This older key has sealed as much as it may; write its documents anew.")


def require_seal_budget(state: TenantState) -> None:
    """Raise KeyUnavailable when the newest key has sealed as often as it may; count a warning from half of it."""
    if nears_seal_limit(state):
        metrics.keys_near_seal_limit.inc()
    if state.seal_count >= SEALS_REFUSE:
        raise KeyUnavailable(_SPENT)


def nears_seal_limit(state: TenantState) -> bool:
    """Whether the newest key has sealed half of what it may: until then no transaction can take it past the rest."""
    return state.seal_count >= SEALS_ALERT
