"""Who is refused over and over is told so later, so that refusing him costs the others little.

A refusal is cheap, and a user's forty callers who come back at once make it the most that a worker does. The first
few refusals of a second leave at once, so a burst that is slightly too large learns it without delay; later ones wait
in the server (r1site/goodbyes.py), where they hold a socket and no thread. Imports no Django.
"""

from __future__ import annotations

import threading
import time
from collections import Counter

__all__ = ["LATE", "LATE_SECONDS", "refused_too_often"]

# In a WSGI environ: in how many seconds the server is to send this answer.
LATE = "memory.answer_late_seconds"
LATE_SECONDS = 1.0
# Of one user in one second.
AT_ONCE_MAX = 8

_lock = threading.Lock()
_second = 0
_refusals: Counter[str] = Counter()


def refused_too_often(user_hash: str) -> bool:
    """Count one more refusal of this user; whether he has had more than AT_ONCE_MAX in this second."""
    global _second
    with _lock:
        if _second != (now := int(time.monotonic())):
            # Nobody is kept for longer than that.
            _second = now
            _refusals.clear()
        _refusals[user_hash] += 1
        return _refusals[user_hash] > AT_ONCE_MAX
