"""How much one user may store: at most MEMORY_MAX_CHUNKS_PER_USER chunks, summaries' included.

The transaction that stores decides, by the count in the tenant's row, which it has locked: so writers at once cannot
pass the quota together. Who is over a quota that was lowered can still do all that does not store more: read, delete,
replace by as much or less.
"""

from __future__ import annotations

from django.conf import settings

from memory.errors import QuotaExceeded


def has_room(stored: int, more: int) -> bool:
    """Whether a user of `stored` chunks may store `more`, whatever they replace."""
    return stored + more <= settings.MEMORY_MAX_CHUNKS_PER_USER


def require_room(stored: int, after: int) -> None:
    """Raise QuotaExceeded where a user of `stored` chunks would have `after`: more than before and than the quota."""
    quota = settings.MEMORY_MAX_CHUNKS_PER_USER
    if after > quota and after > stored:
        raise QuotaExceeded(f"A user may store {quota} chunks; {stored} are stored, and with this it would be {after}.")
