"""The vector leg: the nearest of the bound tenant's rows, exactly, or in an index of the tenant's own.

The vector column is ordered by and never selected. `WHERE user_hash = %s` stands beside the policy:
it is what the indexes begin with, and lets the planner prove partial ones; the policy turns into a One-Time Filter
above it.

Ties go by document and chunk index, an order that no vector index has. So an index of the user's own
(`memory/isolation/own_index.py`) is asked for some more rows than are wanted, nearest first, and ties are resolved
among those. Where it gives fewer than are wanted, the same statement searches exactly.

Under filters it depends on how many of the user's rows pass, which the statement counts first, as far as it matters.
Few are found by the filters' own indexes, and searched exactly; where many do, the index is read on until enough have
passed (pgvector's iterative scan), and where too few have after twice what it should take, the search is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db import DataError
from pgvector import HalfVector

from memory.indexing.expired import unexpired
from memory.isolation.own_index import EF_SEARCH, vector_column
from memory.retrieval.filters import Filters
from memory.retrieval.neighbours import KNOWN, LIVE, SENT

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
# Of a user's n rows so many times the root of n must pass for the index to be read: m of them take m steps to search
# exactly, and in the index n / m steps, each of them longer, for every one that is wanted. At 20,000 and 200,000 rows:
# deploy/bench/README.md.
WORTH = 20
# The index is read so many times as far as it would take, were those that pass spread evenly: far enough for most, and
# where they are all far from the question, nearer ones of another kind do not use up its accuracy.
PATIENCE = 2
# `reading`: how many rows the index is read for, whether they pass or not, 0 where it is not worth it. What has expired
# counts: only the index's own condition stands below its LIMIT.
_DENSE_UNDER_FILTERS = f"""
    WITH reading AS MATERIALIZED (
        SELECT CASE WHEN count(*) = needed
               THEN ceil(%(patience)s::float8 * (%(limit)s::bigint + {_TIES}) * chunks / needed)::bigint END AS rows
        FROM (SELECT chunk_count::float8 AS chunks, 1 + (%(worth)s::float8 * sqrt(chunk_count))::bigint AS needed
              FROM memory_tenants WHERE user_hash = %(user_hash)s) t
        CROSS JOIN LATERAL (
            SELECT FROM memory_chunks
            WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint AND {LIVE}{{conditions}}
            LIMIT needed) p
        GROUP BY chunks, needed
    ),
    in_index AS MATERIALIZED (
        SELECT {KNOWN}, distance FROM (
            SELECT {KNOWN}, expires_at, {{vectors}} <=> %(vector)s::halfvec AS distance
            FROM memory_chunks
            WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint AND quarantined_at IS NULL
            ORDER BY {{vectors}} <=> %(vector)s::halfvec
            LIMIT (SELECT coalesce(max(rows), 0) FROM reading)
        ) given
        WHERE {unexpired()}{{conditions}}
        LIMIT %(limit)s::bigint + {_TIES}
    )
    SELECT {{columns}} FROM (
        SELECT * FROM in_index WHERE (SELECT count(*) FROM in_index) = %(limit)s::bigint + {_TIES}
        UNION ALL
        (SELECT {KNOWN}, embedding <=> %(vector)s::halfvec AS distance
         FROM memory_chunks
         WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint AND {LIVE}{{conditions}}
           AND (SELECT count(*) FROM in_index) < %(limit)s::bigint + {_TIES}
         ORDER BY embedding <=> %(vector)s::halfvec, doc_id, chunk_index LIMIT %(limit)s)
    ) nearest
    ORDER BY distance, doc_id, chunk_index LIMIT %(limit)s"""
# For the transaction. Rows that have expired, or are deleted and not yet vacuumed, count among those that the index
# weighs. Where too few others are among them the search is exact: a scan that went on (hnsw.iterative_scan) would
# end somewhere, and then give what it has passed by, which are not the nearest.
USE_OWN_INDEX = (
    f"SELECT set_config('hnsw.ef_search', '{EF_SEARCH}', true), set_config('hnsw.iterative_scan', 'off', true)"
)

# The same under filters, where the scan goes on. Its own bounds, of rows and of memory, are wider than the statement's,
# which ends it first unless most of what it reads is deleted and not yet vacuumed: a scan that ends by itself gives
# what it has passed by, which are not the nearest. That it pays the statement has counted, and the planner could only
# guess: so it may not sort in the place of the index, until USE_ANY_PLAN. Before PostgreSQL 18 a plan then looks so
# dear that it would be compiled, for half a second.
USE_OWN_INDEX_UNDER_FILTERS = (
    f"SELECT set_config('hnsw.ef_search', '{EF_SEARCH}', true), "
    "set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.max_scan_tuples', '100000', true), "
    "set_config('hnsw.scan_mem_multiplier', '8', true), set_config('enable_sort', 'off', true), "
    "set_config('jit', 'off', true)"
)
USE_ANY_PLAN = "SELECT set_config('enable_sort', 'on', true)"

_ORDER = "ORDER BY c.distance, c.doc_id, c.chunk_index"
_DISTANCE = "embedding <=> %(vector)s::halfvec AS distance"


@dataclass(frozen=True)
class Statement:
    """SQL with its parameters. `is_alike`: its best plan is the same for everybody."""

    sql: str
    params: dict
    is_alike: bool


def vector_leg(
    user_hash: str, space: int, vector: HalfVector, limit: int, filters: Filters, *, has_own_index: bool = False,
    ids_alone: bool = False,
) -> Statement:  # fmt: skip
    """The `limit` nearest rows under the filters, nearest first: what KNOWN says of each, and its distance.

    `ids_alone`: nothing but the id of each, for whoever asks for the rows later: to carry all that is
    known of 20,000 rows up to the sort takes a quarter of the search.
    `has_own_index`: look for them in the user's own index of this space, after USE_OWN_INDEX, or under filters
    USE_OWN_INDEX_UNDER_FILTERS; without such an index the answer is the same, but for ties.
    """
    conditions, params = filters.conditions()
    dense, distance = _DENSE, _DISTANCE
    if has_own_index:
        dense, distance = _DENSE_UNDER_FILTERS if conditions else _DENSE_IN_OWN_INDEX, "distance"
        dense = dense.replace("{vectors}", f"({vector_column(vector.dimensions())})")
        params |= {"worth": WORTH, "patience": PATIENCE}
    params |= {"user_hash": user_hash, "space": space, "vector": vector, "limit": limit}
    # That an index of the user's own or one for a filter serves, the planner sees by the parameters.
    is_alike = dense is _DENSE and not conditions
    if ids_alone:
        return Statement(dense.format(columns="id", conditions=conditions), params, is_alike)
    nearest = dense.format(columns=f"{KNOWN}, {distance}", conditions=conditions)
    return Statement(f"SELECT {SENT}, c.distance FROM ({nearest}\n) c {_ORDER}", params, is_alike)


def is_misfit(exc: DataError) -> bool:
    """Whether a search failed as it does where a stored vector's dimension is not the question's.

    SQLSTATE 22000 is pgvector's for it, and for other things: the rows have the last word.
    """
    return getattr(exc.__cause__, "sqlstate", None) == "22000"
