"""What stands beside the candidates in their threads, as SQL: read with the search, and by an index.

The order in a thread is (created_at, sequence, doc_id, chunk_index), all of it the client's: no arrival, no clock of
ours.
"""

from __future__ import annotations

from memory.indexing.expired import unexpired
from memory.retrieval.threads import REACH

# What is known of a row without opening it. No sealed column: they are brought for the few that go on.
KNOWN = """user_hash, id, doc_id, chunk_index, source, thread_id, char_start, char_end, created_at, sequence,
           generation, speaker"""
COLUMNS = KNOWN.replace(",", " ").split()
# As they are sent: an id as its 16 bytes, and a time as its microseconds since 1970, read in a tenth of the time.
_SENT_AS = {"id": "uuid_send(c.id)", "created_at": "(extract(epoch FROM c.created_at) * 1000000)::bigint"}
SENT = ", ".join(_SENT_AS.get(column, f"c.{column}") for column in COLUMNS)
# Of a row of memory_chunks: nobody found it damaged, and its time is not up.
LIVE = f"quarantined_at IS NULL AND {unexpired()}"

_PLACE = "created_at, sequence, doc_id, chunk_index"
_PLACE_OF_N, _PLACE_OF_A = (", ".join(f"{row}.{column}" for column in _PLACE.split(", ")) for row in "na")


def _neighbours(side: str, order: str) -> str:
    """SQL: up to REACH rows on one side of a candidate `a` in its thread, by one index scan."""
    ordered = ", ".join(f"n.{column} {order}" for column in _PLACE.split(", "))
    return f"""
        (SELECT {", ".join(f"n.{column.strip()}" for column in KNOWN.split(","))},
                n.embedding <=> %(vector)s::halfvec AS distance, true{{conditions}} AS is_answer
         FROM memory_chunks n
         WHERE n.user_hash = %(user_hash)s AND n.thread_id = a.thread_id
           AND ({_PLACE_OF_N}) {side} ({_PLACE_OF_A})
           AND n.space = %(space)s::smallint AND {LIVE}
         ORDER BY {ordered} LIMIT {REACH})"""


# `nearby`: the candidates, each with its stretch of its thread; filters say which of its neighbours may be answers.
# `chains`: the ids of a candidate's stretch, in order, 16 bytes each.
NEARBY = f""",
nearby AS MATERIALIZED (
    SELECT a.id AS candidate, {", ".join(f"a.{column.strip()}" for column in KNOWN.split(","))},
           a.distance, true AS is_answer
    FROM candidates a
    UNION ALL
    SELECT a.id, n.* FROM candidates a CROSS JOIN LATERAL ({_neighbours("<", "DESC")}
        UNION ALL{_neighbours(">", "ASC")}) n
    WHERE a.thread_id IS NOT NULL
),
rows AS MATERIALIZED (SELECT DISTINCT ON (id) * FROM nearby ORDER BY id),
chains AS MATERIALIZED (
    SELECT candidate AS id, string_agg(uuid_send(id), NULL ORDER BY {_PLACE}) AS chain
    FROM nearby GROUP BY candidate
)"""
# In the place of both, where nobody asks for neighbours.
ALONE = """,
rows AS MATERIALIZED (SELECT *, true AS is_answer FROM candidates),
chains AS (SELECT NULL::uuid AS id, NULL::bytea AS chain WHERE false)"""
