"""Which of the words' hits the filters let through, without looking every one of them up.

A common word is in tens of thousands of a big user's chunks, and what they are filtered by stands in their rows. So
the best hits are looked up first, a few for each that is wanted. Where too few of these pass, little passes at all, or
little of what is near in words: then the rows that pass are read by the filters' indexes, and the best of the hits
among them are the best that pass. Equal scores go by document and place.
"""

from __future__ import annotations

from memory.lexical.addresses import ADDRESSES, HITS, SEGMENTS
from memory.lexical.lookup import Hits, Scored
from memory.retrieval.filters import Filters
from memory.retrieval.neighbours import LIVE
from memory.rls import TenantTransaction

# Hits that are looked up for each one that is wanted, before all rows that pass are read; where the last one's score is
# that of many, as of short texts that are all alike, TIED times as many at most.
LOOKED_UP = 16
TIED = 4

_PASSES = f"c.user_hash = %(user_hash)s AND c.space = %(space)s::smallint AND {LIVE}{{conditions}}"
_LOOKED_UP = f"""
WITH {HITS}
SELECT h.id, h.bm25
FROM hits h CROSS JOIN LATERAL (
    SELECT c.doc_id, c.chunk_index FROM memory_chunks c WHERE c.id = h.id AND {_PASSES} OFFSET 0) c
ORDER BY h.bm25 DESC, c.doc_id, c.chunk_index LIMIT %(limit)s"""
# Of every row that passes where its terms stand, as arrays.
_READ = f"""
WITH {SEGMENTS},
rows AS MATERIALIZED (SELECT c.id, c.doc_id, c.chunk_index FROM memory_chunks c WHERE {_PASSES}){ADDRESSES}
SELECT string_agg(uuid_send(id), ''::bytea), array_send(array_agg(coalesce(segment, -1))),
       array_send(array_agg(coalesce(number, -1)))
FROM (SELECT id, segment, number FROM rows LEFT JOIN addresses USING (id) ORDER BY doc_id, chunk_index) r"""


def best_passing(tx: TenantTransaction, space: int, hits: Hits, filters: Filters, limit: int) -> Scored:
    """The hits of the `limit` highest scores that pass; waits for the server.

    Where there are few hits they are given as they are, for whoever looks each up anyway.
    """
    first = hits.best(LOOKED_UP * limit)
    if len(first) < LOOKED_UP * limit:
        return first
    if len(first) <= TIED * LOOKED_UP * limit:
        found = looked_up(tx, space, first, filters, limit)
        if len(found) == limit:
            return found
    return hits.best_among(hits.sent_numbers(*read(tx, space, filters)), limit)


def looked_up(tx: TenantTransaction, space: int, hits: Scored, filters: Filters, limit: int) -> Scored:
    """The `limit` best of `hits` that pass, by the id of each."""
    conditions, params = filters.conditions()
    params |= hits.params() | {"user_hash": tx.user_hash, "space": space, "limit": limit}
    sql = _LOOKED_UP.format(conditions=conditions)
    rows = tx.read_partition(sql, params, keeps_plan=False, binary=True).fetchall()
    return Scored([], [], [], [chunk_id.hex for chunk_id, _ in rows], [bm25 for _, bm25 in rows])


def read(tx: TenantTransaction, space: int, filters: Filters) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Every row that passes, by document and place: ids, segments and numbers in these, as the server sends arrays."""
    conditions, params = filters.conditions()
    params |= {"user_hash": tx.user_hash, "space": space}
    sql = _READ.format(conditions=conditions)
    [row] = tx.read_partition(sql, params, keeps_plan=False, binary=True).fetchall()
    return row
