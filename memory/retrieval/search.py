"""The candidate search: one SQL text for every user, exact within the bound tenant's rows.

The vector column is ordered by and never selected. `WHERE user_hash = %s` stands beside the policy:
it gives the planner the right row estimate, prunes to one partition and lets it prove partial
indexes; the policy turns into a One-Time Filter above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db import DataError
from pgvector import HalfVector

from memory.lexical.bm25 import LexicalQuery, ctes
from memory.retrieval.candidate import Candidate
from memory.rls import TenantTransaction, refuse_cross_tenant
from memory.sealing.quarantine import ANY_QUARANTINED


@dataclass(frozen=True)
class Filters:
    """What a query may be narrowed to. Times are aware; `since` is included, `until` is not."""

    sources: tuple[str, ...] = ()
    doc_ids: tuple[str, ...] = ()
    thread_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_COLUMNS = """c.user_hash, c.id, c.doc_id, c.chunk_index, c.source, c.thread_id, c.char_start, c.char_end,
       c.created_at, c.sequence, c.generation, c.text_cipher, c.meta_cipher, d.meta_cipher, d.content_mac, d.generation,
       c.distance, c.bm25"""

_DENSE = """
    SELECT {columns}
    FROM memory_chunks
    WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint AND quarantined_at IS NULL{conditions}
    ORDER BY embedding <=> %(vector)s::halfvec, doc_id, chunk_index
    LIMIT %(limit)s"""

_DOCUMENT = """
LEFT JOIN memory_documents d ON d.user_hash = %(user_hash)s AND d.doc_id = c.doc_id
{where}
ORDER BY c.distance, c.doc_id, c.chunk_index"""

_ONE_LEG = f"""
SELECT {_COLUMNS}
FROM ({{dense}}
) c{_DOCUMENT.format(where="")}"""

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
)
SELECT {_COLUMNS}
FROM (
    SELECT c.user_hash, c.id, c.doc_id, c.chunk_index, c.source, c.thread_id, c.char_start, c.char_end, c.created_at,
           c.sequence, c.generation, c.text_cipher, c.meta_cipher, c.embedding <=> %(vector)s::halfvec AS distance,
           f.bm25, f.nearest, row_number() OVER (ORDER BY f.bm25 DESC, c.doc_id, c.chunk_index) AS rank
    FROM found f JOIN memory_chunks c ON c.user_hash = %(user_hash)s AND c.id = f.id
    WHERE c.space = %(space)s::smallint AND c.quarantined_at IS NULL{{conditions}}
) c{_DOCUMENT.format(where="WHERE c.nearest OR (c.bm25 > 0 AND c.rank <= %(limit)s)")}"""

_ALL_COLUMNS = """user_hash, id, doc_id, chunk_index, source, thread_id, char_start, char_end, created_at, sequence,
           generation, text_cipher, meta_cipher, embedding <=> %(vector)s::halfvec AS distance, NULL::float8 AS bm25"""


def candidate_statement(
    user_hash: str, space: int, vector: HalfVector, limit: int, filters: Filters, lexical: LexicalQuery | None = None
) -> tuple[str, dict]:
    """The search's SQL and its parameters; `explain_ann` explains exactly this.

    Each leg gives its `limit` best under the filters; a row of either has its distance and its BM25 score.
    Without a lexical query, or one without terms, the vector leg stands alone and no row has a BM25 score.
    """
    params = {"user_hash": user_hash, "space": space, "vector": vector, "limit": limit}
    conditions = ""
    for name, clause, value in (
        ("sources", "source = ANY(%(sources)s)", list(filters.sources)),
        ("doc_ids", "doc_id = ANY(%(doc_ids)s)", list(filters.doc_ids)),
        ("thread_id", "thread_id = %(thread_id)s", filters.thread_id),
        ("since", "created_at >= %(since)s", filters.since),
        ("until", "created_at < %(until)s", filters.until),
    ):
        if value not in (None, []):
            conditions += f" AND {clause}"
            params[name] = value
    if lexical is None or not lexical.ids:
        return _ONE_LEG.format(dense=_DENSE.format(columns=_ALL_COLUMNS, conditions=conditions)), params
    sql = _BOTH_LEGS.format(
        dense=_DENSE.format(columns="id", conditions=conditions),
        lexical=ctes(filtered=bool(conditions)),
        conditions=conditions,
    )
    return sql, params | lexical.params()


def is_misfit(exc: DataError) -> bool:
    """Whether a search failed as it does where a stored vector's dimension is not the question's.

    SQLSTATE 22000 is pgvector's for it, and for other things: the rows have the last word.
    """
    return getattr(exc.__cause__, "sqlstate", None) == "22000"


class Search:
    """A search queued in an open tenant transaction: `candidates()` and `quarantined()` wait for the server."""

    def __init__(
        self, tx: TenantTransaction, space: int, vector: HalfVector, limit: int, filters: Filters,
        lexical: LexicalQuery | None = None,
    ):  # fmt: skip
        self._user_hash = tx.user_hash
        self._found = tx.execute(*candidate_statement(tx.user_hash, space, vector, limit, filters, lexical))
        self._any_quarantined = tx.execute(ANY_QUARANTINED, [tx.user_hash])

    def candidates(self) -> list[Candidate]:
        """Nearest first. Raises CrossTenantAttempt if the server ever returned another tenant's row."""
        rows = self._found.fetchall()
        if any(row[0] != self._user_hash for row in rows):
            refuse_cross_tenant()
        found = [Candidate(*row[1:]) for row in rows]
        for candidate in found:
            candidate.vector = min(1.0, max(0.0, 1.0 - candidate.distance))
        return found

    def quarantined(self) -> bool:
        """Whether some of the user's rows are quarantined, so that the answer may be missing them."""
        return self._any_quarantined.fetchone()[0]
