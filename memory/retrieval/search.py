"""The search: both legs' candidates, each with its distance and its BM25 score, and what stands beside them.

In one transaction, which has one snapshot, and two round trips: the words (`lexical/lookup.py`) say which rows they
have found, and one statement brings these, those that are nearest (`nearest.py`), the rows beside them and where their
terms stand. A vector leg that is planned for its parameters, since there are filters or an index of the user's own, is
a statement of its own: it goes with the words or, where the question's vector is still being made, between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TypeGuard, cast

import numpy as np
from pgvector import HalfVector

from memory import metrics
from memory.isolation.connection import Cursor, array
from memory.lexical.addresses import ADDRESSES, HITS
from memory.lexical.bm25 import LexicalQuery
from memory.lexical.lookup import Hits, Lookup
from memory.lexical.sent_arrays import UUID_BYTES
from memory.retrieval.candidate import Candidate
from memory.retrieval.filters import Filters
from memory.retrieval.found import CHUNK_ID, CHUNK_INDEX, DISTANCE, DOC_ID, Found
from memory.retrieval.nearest import USE_ANY_PLAN, USE_OWN_INDEX, USE_OWN_INDEX_UNDER_FILTERS, vector_leg
from memory.retrieval.neighbours import ALONE, KNOWN, LIVE, NEARBY, SENT
from memory.retrieval.passing import best_passing
from memory.retrieval.threads import Turns
from memory.rls import TenantTransaction, refuse_cross_tenant

# `found`: what either leg brought, with the BM25 score of each that the words found: no score is below 0, so of two
# mentions the greater is it. `rank`: the order of the lexical leg, in which rows of the vector leg are ranked too.
# OFFSET 0: each row is looked up by its id, however few rows the planner takes a user to have; its plan is for all.
_FOUND = f"""
WITH {HITS},
found AS MATERIALIZED (
    SELECT id, bool_or(nearest) AS nearest, max(bm25) AS bm25
    FROM (
        SELECT id, true AS nearest, 0::float8 AS bm25 FROM {{nearest}} AS d (id)
        UNION ALL
        SELECT id, false, bm25 FROM hits
    ) mentions
    GROUP BY id
),
candidates AS MATERIALIZED (
    SELECT {KNOWN}, distance
    FROM (
        SELECT c.*, f.bm25, f.nearest, row_number() OVER (ORDER BY f.bm25 DESC, c.doc_id, c.chunk_index) AS rank
        FROM found f CROSS JOIN LATERAL (
            SELECT {KNOWN}, embedding <=> %(vector)s::halfvec AS distance
            FROM memory_chunks c
            WHERE c.user_hash = %(user_hash)s AND c.id = f.id AND c.space = %(space)s::smallint AND {LIVE}{{conditions}}
            OFFSET 0) c
    ) c
    WHERE c.nearest OR (c.bm25 > 0 AND c.rank <= %(limit)s)
){{neighbours}}{ADDRESSES}
SELECT {SENT}, c.distance, c.is_answer, h.chain, p.segment, p.number, p.length
FROM rows c LEFT JOIN chains h USING (id) LEFT JOIN addresses p USING (id)"""
# The vector leg's rows, where a statement before this one has found them.
_KNOWN_NEAREST = "unnest(%(nearest)s::uuid[])"
# Where these stand, behind what `Found` has of each row.
_IS_ANSWER, _CHAIN, _SEGMENT, _NUMBER, _LENGTH = range(DISTANCE + 1, DISTANCE + 6)

# How many of the user's rows are quarantined, and how many have expired: no answer has them. Planned for each user: to
# whoever takes him for one of few rows any index is as good as that of what expires.
_UNFIT = """
SELECT (SELECT count(*) FROM memory_chunks WHERE user_hash = %(user_hash)s AND quarantined_at IS NOT NULL),
       (SELECT count(*) FROM memory_chunks WHERE user_hash = %(user_hash)s AND expires_at <= now())"""


@lru_cache(maxsize=64)
def _statement(nearest: str, conditions: str, neighbours: str) -> str:
    """_FOUND with its parts: the same string each time, which `in_partition` knows at a glance."""
    return _FOUND.format(nearest=nearest, conditions=conditions, neighbours=neighbours)


def has_terms(lexical: LexicalQuery | None) -> TypeGuard[LexicalQuery]:
    """Whether there is anything to look up; else the vector leg stands alone."""
    return lexical is not None and bool(lexical.ids)


class Search:
    """A search in an open tenant transaction, its first statements queued; later calls wait for the server.

    Each leg gives its `limit` best under the filters; a candidate of either has its distance and its BM25 score.
    Without a lexical query, or one without terms, the vector leg stands alone and no candidate has a BM25 score. With
    `context` come what stands near the candidates in their threads, and each one's BM25 score with these.
    `vector` may be a function that waits for it: it is called in `found()`, once the words have been looked up.
    `has_own_index` as in `vector_leg`.
    """

    def __init__(
        self, tx: TenantTransaction, space: int, vector: HalfVector | Callable[[], HalfVector], limit: int,
        filters: Filters, lexical: LexicalQuery | None = None, *, context: bool = False, has_own_index: bool = False,
    ):  # fmt: skip
        self._tx, self._space, self._limit, self._filters = tx, space, limit, filters
        self._context, self._has_own_index = context, has_own_index
        # Of the question's words, from `found()` on; None where none are looked for.
        self.idf: dict[int, float] | None = None
        metrics.searches.labels("own" if has_own_index else "none").inc()
        self._unfit_found = tx.read_partition(_UNFIT, {"user_hash": tx.user_hash}, keeps_plan=False)
        self._lookup = Lookup(tx, space, lexical) if has_terms(lexical) else None
        self._vector = vector
        self._nearest: Cursor | None = None
        if not callable(vector):
            self._begin_vector_leg(vector)

    def _begin_vector_leg(self, vector: HalfVector) -> None:
        """Queue it, unless its best plan is the same for everybody: then it is a part of _FOUND."""
        self._vector, tx, filters = vector, self._tx, self._filters
        self._leg = leg = vector_leg(
            tx.user_hash, self._space, vector, self._limit, filters,
            has_own_index=self._has_own_index, ids_alone=self._lookup is not None,
        )  # fmt: skip
        if self._lookup is not None and leg.is_alike:
            return
        is_filtered = filters != Filters()
        if self._has_own_index:
            tx.execute(USE_OWN_INDEX_UNDER_FILTERS if is_filtered else USE_OWN_INDEX)
        self._nearest = tx.read_partition(leg.sql, leg.params, keeps_plan=leg.is_alike, binary=True)
        if self._has_own_index and is_filtered:
            tx.execute(USE_ANY_PLAN)

    def candidates(self) -> list[Candidate]:
        """As `found()`, each an object: for tools, which look at all of them."""
        return self.found().candidates()

    def found(self) -> Found:
        """Both legs' candidates, nearest first, and with context the neighbours that the filters let through.

        Raises CrossTenantAttempt if the server ever returned another tenant's row.
        """
        if self._lookup is None:
            return Found(self._of_this_tenant(cast(Cursor, self._vector_leg())))
        hits = self._lookup.hits()
        self.idf = hits.idf()
        conditions, params = self._filters.conditions()
        # Those that no answer has are dropped with the others' ranks counted: there is one more for each.
        if conditions:
            best = best_passing(self._tx, self._space, hits, self._filters, self._limit)
        else:
            best = hits.best(self._limit + sum(self._unfit))
        nearest = self._vector_leg()
        if nearest is None:
            ids, params = f"({self._leg.sql}\n)", params | self._leg.params
        else:
            ids, params = _KNOWN_NEAREST, params | {"nearest": array(row[0] for row in nearest.fetchall())}
        neighbours = NEARBY.format(conditions=conditions) if self._context else ALONE
        params |= best.params() | {
            "user_hash": self._tx.user_hash, "space": self._space, "vector": self._vector, "limit": self._limit,
        }  # fmt: skip
        sql = _statement(ids, conditions, neighbours)
        found = self._tx.read_partition(sql, params, keeps_plan=not conditions, binary=True)
        return _scored(self._of_this_tenant(found), hits)

    def _vector_leg(self) -> Cursor | None:
        """What it found, once the vector is there; None where _FOUND, which is for words, is to find it."""
        if callable(self._vector):
            self._begin_vector_leg(self._vector())
        return self._nearest

    def quarantined(self) -> bool:
        """Whether some of the user's rows are quarantined, so that the answer may be missing them."""
        return self._unfit[0] > 0

    @cached_property
    def _unfit(self) -> tuple[int, int]:
        return self._unfit_found.fetchone()

    def _of_this_tenant(self, found: Cursor) -> list[tuple]:
        rows = found.fetchall()
        if any(row[0] != self._tx.user_hash for row in rows):
            refuse_cross_tenant()
        return rows


def _scored(rows: list[tuple], hits: Hits) -> Found:
    """_FOUND's rows, nearest first, with their BM25 scores, and where any has a neighbour the ones with these."""
    if not rows:
        return Found(rows)
    numbers = hits.numbers_of([(row[CHUNK_ID], row[_SEGMENT], row[_NUMBER]) for row in rows])
    lengths = np.array([row[_LENGTH] or 0 for row in rows], np.int64) + hits.lengths_in_memtable(numbers)
    turns = Turns(lengths, hits.frequencies_of(numbers))
    bm25, spread_bm25 = turns.bm25(hits.weights), None
    at = {row[CHUNK_ID]: nth for nth, row in enumerate(rows)}
    chains = [
        [at[chain[begin : begin + UUID_BYTES]] for begin in range(0, len(chain), UUID_BYTES)]
        for chain in (row[_CHAIN] for row in rows)
        if chain is not None and len(chain) > UUID_BYTES
    ]
    if chains:
        spread_bm25 = turns.spread_bm25(chains, hits.weights)
    answers = [
        nth
        for *_, nth in sorted(
            (row[DISTANCE], row[DOC_ID], row[CHUNK_INDEX], nth) for nth, row in enumerate(rows) if row[_IS_ANSWER]
        )
    ]
    return Found([rows[nth] for nth in answers], bm25[answers], None if spread_bm25 is None else spread_bm25[answers])
