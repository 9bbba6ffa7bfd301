"""Which of the words' hits the filters let through, without looking every one of them up.

A common word is in tens of thousands of a big user's chunks, and what they are filtered by stands in their rows. So
the best hits are looked up first, a few for each that is wanted. Where too few of these pass, little passes at all, or
little of what is near in words: then the rows that pass are read by the filters' indexes, and met with all hits.
"""

from __future__ import annotations

from memory.lexical.addresses import HITS
from memory.lexical.lookup import Hits, Scored
from memory.retrieval.filters import Filters
from memory.retrieval.neighbours import LIVE
from memory.rls import TenantTransaction

# Hits that are looked up for each one that is wanted, before all rows that pass are read.
LOOKED_UP = 16

_PASSES = f"c.user_hash = %(user_hash)s AND c.space = %(space)s::smallint AND {LIVE}{{conditions}}"
_BEST = "ORDER BY h.bm25 DESC FETCH FIRST %(limit)s ROWS WITH TIES"
_OF_FEW = f"""
WITH {HITS}
SELECT h.id, h.bm25
FROM hits h CROSS JOIN LATERAL (SELECT FROM memory_chunks c WHERE c.id = h.id AND {_PASSES} OFFSET 0) c
{_BEST}"""
_OF_ALL = f"""
WITH {HITS},
passing AS MATERIALIZED (SELECT c.id FROM memory_chunks c WHERE {_PASSES})
SELECT h.id, h.bm25 FROM hits h JOIN passing USING (id)
{_BEST}"""


def best_passing(tx: TenantTransaction, space: int, hits: Hits, filters: Filters, limit: int) -> Scored:
    """The hits of the `limit` highest scores that pass, all that have the last one's included; waits for the server.

    Where there are few hits they are given as they are, for whoever looks each up anyway.
    """
    first = hits.best(LOOKED_UP * limit)
    if len(first) < LOOKED_UP * limit:
        return first
    found = _passing(tx, space, _OF_FEW, first, filters, limit)
    return found if len(found) >= limit else _passing(tx, space, _OF_ALL, hits.best(None), filters, limit)


def _passing(tx: TenantTransaction, space: int, sql: str, hits: Scored, filters: Filters, limit: int) -> Scored:
    conditions, params = filters.conditions()
    params |= hits.params() | {"user_hash": tx.user_hash, "space": space, "limit": limit}
    rows = tx.read_partition(sql.format(conditions=conditions), params, keeps_plan=False).fetchall()
    return Scored([], [], [], [chunk_id for chunk_id, _ in rows], [bm25 for _, bm25 in rows])
