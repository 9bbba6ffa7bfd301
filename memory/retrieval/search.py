"""The candidate search: exact within the bound tenant's rows, or in an index of the tenant's own.

The vector column is ordered by and never selected. `WHERE user_hash = %s` stands beside the policy:
it gives the planner the right row estimate, prunes to one partition and lets it prove partial
indexes; the policy turns into a One-Time Filter above it.

Ties go by document and chunk index, an order that no vector index has. So an index of the user's own
(`memory/isolation/own_index.py`) is asked for some more rows than are wanted, nearest first, and ties are resolved
among those. Where it gives fewer than are wanted, the same statement searches exactly. Under filters the search is
exact for everybody: the indexes for filters find few rows at once, and an index by distance would have to be read until
enough of its rows happen to pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeGuard

import numpy as np
from django.db import DataError
from pgvector import HalfVector

from memory import metrics
from memory.isolation.own_index import EF_SEARCH, vector_column
from memory.lexical.bm25 import LexicalQuery, ctes
from memory.retrieval.candidate import Candidate
from memory.retrieval.neighbours import KNOWN, LIVE, NEARBY, OF_C, SENT, WITH_NEIGHBOURS
from memory.retrieval.threads import TermWeights, Turns
from memory.rls import TenantTransaction, refuse_cross_tenant
from memory.sealing.quarantine import ANY_QUARANTINED

UUID_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Filters:
    """What a query may be narrowed to. Times are aware; `since` is included, `until` is not. `speaker`: a blind id."""

    sources: tuple[str, ...] = ()
    doc_ids: tuple[str, ...] = ()
    thread_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    speaker: int | None = None


_DENSE = f"""
    SELECT {{columns}}
    FROM memory_chunks
    WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint AND {LIVE}{{conditions}}
    ORDER BY embedding <=> %(vector)s::halfvec, doc_id, chunk_index
    LIMIT %(limit)s"""

# So many more than are wanted: chunks of the very same distance, texts that were said again, may stand on the brink.
_TIES = 24
_DENSE_IN_OWN_INDEX = f"""
    WITH in_index AS MATERIALIZED (
        SELECT * FROM (
            SELECT {KNOWN}, {{vectors}} <=> %(vector)s::halfvec AS distance
            FROM memory_chunks
            WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint AND {LIVE}
            ORDER BY {{vectors}} <=> %(vector)s::halfvec
            LIMIT %(limit)s::bigint + {_TIES}
        ) nearest
        ORDER BY distance, doc_id, chunk_index LIMIT %(limit)s
    )
    SELECT {{columns}} FROM (
        SELECT * FROM in_index WHERE (SELECT count(*) FROM in_index) >= %(limit)s
        UNION ALL
        (SELECT {KNOWN}, embedding <=> %(vector)s::halfvec AS distance
         FROM memory_chunks
         WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint AND {LIVE}
           AND (SELECT count(*) FROM in_index) < %(limit)s
         ORDER BY embedding <=> %(vector)s::halfvec, doc_id, chunk_index LIMIT %(limit)s)
    ) nearest
    ORDER BY distance, doc_id, chunk_index LIMIT %(limit)s"""
# For the transaction. Rows that have expired, or are deleted and not yet vacuumed, count among those that the index
# weighs. Where too few others are among them the search is exact: a scan that went on (hnsw.iterative_scan) would
# end somewhere, and then give what it has passed by, which are not the nearest.
USE_OWN_INDEX = (
    f"SELECT set_config('hnsw.ef_search', '{EF_SEARCH}', true), set_config('hnsw.iterative_scan', 'off', true)"
)

_ORDER = "ORDER BY c.distance, c.doc_id, c.chunk_index"
_ONE_LEG = f"""
SELECT {SENT}, c.distance, c.bm25
FROM ({{dense}}
) c
{_ORDER}"""

# `found`: what either leg brought, with the BM25 score of each: no score is below 0, so of two mentions the greater is
# it. `rank`: the order of the lexical leg, in which rows of the vector leg are ranked too.
_BOTH_LEGS = f"""
WITH dense AS MATERIALIZED ({{dense}}
),{{lexical}}
found AS MATERIALIZED (
    SELECT id, bool_or(nearest) AS nearest, max(bm25) AS bm25
    FROM (SELECT id, true AS nearest, 0.0::float8 AS bm25 FROM dense
          UNION ALL SELECT id, false, bm25 FROM lexical) mentions
    GROUP BY id
),
candidates AS MATERIALIZED (
    SELECT {KNOWN}, distance, bm25
    FROM (
        SELECT {OF_C}, c.embedding <=> %(vector)s::halfvec AS distance,
               f.bm25, f.nearest, row_number() OVER (ORDER BY f.bm25 DESC, c.doc_id, c.chunk_index) AS rank
        FROM found f JOIN memory_chunks c ON c.user_hash = %(user_hash)s AND c.id = f.id
        WHERE c.space = %(space)s::smallint AND {LIVE}{{conditions}}
    ) c
    WHERE c.nearest OR (c.bm25 > 0 AND c.rank <= %(limit)s)
)"""
_CANDIDATES = f"""
SELECT {SENT}, c.distance, c.bm25
FROM candidates c
{_ORDER}"""

_DISTANCE = "embedding <=> %(vector)s::halfvec AS distance"
_ALL_COLUMNS = f"{KNOWN}, {{distance}}, NULL::float8 AS bm25"


def candidate_statement(
    user_hash: str,
    space: int,
    vector: HalfVector,
    limit: int,
    filters: Filters,
    lexical: LexicalQuery | None = None,
    *,
    context: bool = False,
    has_own_index: bool = False,
) -> tuple[str, dict]:
    """The search's SQL and its parameters; `explain_ann` explains exactly this.

    Each leg gives its `limit` best under the filters; a row of either has its distance and its BM25 score.
    Without a lexical query, or one without terms, the vector leg stands alone and no row has a BM25 score. With
    `context` come what stands near the candidates in their threads, and how often the terms occur in each row.
    `has_own_index`: look for the nearest in the user's own index of this space, after USE_OWN_INDEX; without such an
    index the answer is the same, but for ties. Filters make it exact again.
    """
    params = {"user_hash": user_hash, "space": space, "vector": vector, "limit": limit}
    conditions = ""
    for name, clause, value in (
        ("sources", "source = ANY(%(sources)s)", list(filters.sources)),
        ("doc_ids", "doc_id = ANY(%(doc_ids)s)", list(filters.doc_ids)),
        ("thread_id", "thread_id = %(thread_id)s", filters.thread_id),
        ("since", "created_at >= %(since)s", filters.since),
        ("until", "created_at < %(until)s", filters.until),
        ("speaker", "speaker = %(speaker)s", filters.speaker),
    ):
        if value not in (None, []):
            conditions += f" AND {clause}"
            params[name] = value
    dense, distance = _DENSE, _DISTANCE
    if has_own_index and not conditions:
        dense, distance = _DENSE_IN_OWN_INDEX, "distance"
        dense = dense.replace("{vectors}", f"({vector_column(vector.dimensions())})")
    if not has_terms(lexical):
        columns = _ALL_COLUMNS.format(distance=distance)
        return _ONE_LEG.format(dense=dense.format(columns=columns, conditions=conditions)), params
    sql = _BOTH_LEGS.format(
        dense=dense.format(columns="id", conditions=conditions),
        lexical=ctes(filtered=bool(conditions)),
        conditions=conditions,
    )
    sql += NEARBY.format(conditions=conditions) + WITH_NEIGHBOURS if context else _CANDIDATES
    return sql, params | lexical.params()


def has_terms(lexical: LexicalQuery | None) -> TypeGuard[LexicalQuery]:
    """Whether there is anything to look up; else the vector leg stands alone."""
    return lexical is not None and bool(lexical.ids)


def is_misfit(exc: DataError) -> bool:
    """Whether a search failed as it does where a stored vector's dimension is not the question's.

    SQLSTATE 22000 is pgvector's for it, and for other things: the rows have the last word.
    """
    return getattr(exc.__cause__, "sqlstate", None) == "22000"


class Search:
    """A search queued in an open tenant transaction: `candidates()` and `quarantined()` wait for the server."""

    def __init__(
        self, tx: TenantTransaction, space: int, vector: HalfVector, limit: int, filters: Filters,
        lexical: LexicalQuery | None = None, *, context: bool = False, has_own_index: bool = False,
    ):  # fmt: skip
        self._user_hash = tx.user_hash
        self._has_context = context and has_terms(lexical)
        if has_own_index:
            tx.execute(USE_OWN_INDEX)
        metrics.searches.labels("own" if has_own_index and filters == Filters() else "none").inc()
        statement = candidate_statement(
            tx.user_hash, space, vector, limit, filters, lexical, context=context, has_own_index=has_own_index
        )
        self._found = tx.execute(*statement)
        self._any_quarantined = tx.execute(ANY_QUARANTINED, [tx.user_hash])

    def candidates(self) -> list[Candidate]:
        """Both legs' candidates, nearest first, and with context the neighbours that the filters let through.

        Raises CrossTenantAttempt if the server ever returned another tenant's row.
        """
        rows = self._found.fetchall()
        if any(row[0] != self._user_hash for row in rows):
            refuse_cross_tenant()
        found = _with_context(rows) if self._has_context else [_candidate(row) for row in rows]
        return sorted(found, key=lambda candidate: (candidate.distance, candidate.doc_id, candidate.chunk_index))

    def quarantined(self) -> bool:
        """Whether some of the user's rows are quarantined, so that the answer may be missing them."""
        return self._any_quarantined.fetchone()[0]


def _candidate(row: tuple) -> Candidate:
    chunk_id, doc_id, index, source, thread_id, start, end, microseconds, sequence, generation, speaker = row[1:12]
    distance, bm25 = row[12:14]
    created_at = _EPOCH + timedelta(0, 0, microseconds)
    candidate = Candidate(
        chunk_id, doc_id, index, source, thread_id, start, end, created_at, sequence, generation, distance, bm25
    )
    candidate.speaker_id = speaker
    candidate.vector = min(1.0, max(0.0, 1.0 - distance))
    return candidate


def _with_context(rows: list[tuple]) -> list[Candidate]:
    """What WITH_NEIGHBOURS brought: every row has its own BM25 score, and with neighbours the one with them."""
    if not rows:
        return []
    of_terms: tuple = rows[0][19:]
    weights = TermWeights(of_terms[0], np.asarray(of_terms[1], np.float64), of_terms[2] or 0.0)
    number = {row[1].bytes: at for at, row in enumerate(rows)}
    chains = [
        [number[chain[at : at + UUID_BYTES]] for at in range(0, len(chain), UUID_BYTES)]
        for chain in (row[18] for row in rows)
        if chain is not None and len(chain) > UUID_BYTES
    ]
    candidates = [(at, _candidate(row)) for at, row in enumerate(rows) if row[14]]
    if chains:
        turns = Turns.of([row[15] or 0 for row in rows], [row[16:18] for row in rows], weights.terms)
        alone, spread = turns.bm25(weights).tolist(), turns.spread_bm25(chains, weights).tolist()
        for at, candidate in candidates:
            if candidate.bm25 is None:
                candidate.bm25 = alone[at]
            candidate.spread_bm25 = spread[at]
    return [candidate for _, candidate in candidates]
