"""How many of the nearest a user's own index finds, measured on his own vectors before a search is to use it.

pgvector holds ten rows of one and the same vector in a node; of a text that stands there a thousand times a hundred
nodes are made, each the others' nearest neighbour. Where a user has many of these, a search goes round among them and
finds no way out. Nothing but asking tells whether that is so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgvector import HalfVector

from memory.retrieval.filters import Filters
from memory.retrieval.found import DISTANCE
from memory.retrieval.nearest import USE_OWN_INDEX, vector_leg
from memory.retrieval.neighbours import LIVE
from memory.rls import tenant_transaction

# An index that finds less of NEAREST is used by no search.
RECALL_MIN = 0.99
QUESTIONS, NEAREST = 64, 24
# What distances of one pair of vectors may differ by between two plans.
_SAME = 1e-6

_QUESTIONS = f"""
SELECT DISTINCT embedding::text FROM (
    SELECT embedding FROM memory_chunks
    WHERE user_hash = %s AND space = %s::smallint AND {LIVE} ORDER BY random() LIMIT %s) rows"""
# Else the planner may take a search of few rows to be quicker without the index that is to be judged.
_BY_INDEX = "SELECT set_config('enable_sort', 'off', true)"


def recall_of(user_hash: str, space: int) -> float:
    """The share of the exact NEAREST that the index finds, over up to QUESTIONS of the user's vectors; ties count.

    1.0 where he has none. Each question in a short transaction of its own. Raises database errors.
    """
    with tenant_transaction(user_hash, reads_state=False) as tx:
        drawn = [row[0] for row in tx.execute(_QUESTIONS, [user_hash, space, QUESTIONS]).fetchall()]
    found = wanted = 0
    for drawn_text in drawn:
        vector = HalfVector([float(part) for part in re.findall(r"[^\[\],]+", drawn_text)])
        exact, own = (
            vector_leg(user_hash, space, vector, NEAREST, Filters(), has_own_index=has_own) for has_own in (False, True)
        )
        with tenant_transaction(user_hash, reads_state=False) as tx:
            nearest = [row[DISTANCE] for row in tx.execute(exact.sql, exact.params).fetchall()]
            tx.execute(_BY_INDEX)
            tx.execute(USE_OWN_INDEX)
            in_index = [row[DISTANCE] for row in tx.execute(own.sql, own.params).fetchall()]
        wanted += len(nearest)
        found += as_near(nearest, in_index)
    return found / wanted if wanted else 1.0


def as_near(exact: Sequence[float], found: Sequence[float]) -> int:
    """How many of the distances `found` are no greater than the last of the `exact` ones: of equal texts any counts."""
    return sum(distance <= exact[-1] + _SAME for distance in found) if exact else 0
