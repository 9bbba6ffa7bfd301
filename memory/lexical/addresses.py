"""From a chunk's address, a segment and a number in it, to its id and back, as SQL.

A segment's ids are ascending and are taken out of TOAST once: a chunk's number there is found by a binary search.
"""

from __future__ import annotations

# A CTE, first in a statement; HITS has it too.
SEGMENTS = """segments AS MATERIALIZED (
    SELECT segment, first_id, last_id, chunk_ids, lengths FROM memory_lexical_segments
    WHERE user_hash = %(user_hash)s AND space = %(space)s::smallint
)"""
# CTEs, first in a statement, with the parameters of `Scored`: up to `hits` (id, bm25).
HITS = f"""{SEGMENTS},
hits AS (
    SELECT id, bm25 FROM unnest(%(in_memtable)s::uuid[], %(memtable_scores)s::float8[]) AS m (id, bm25)
    UNION ALL
    SELECT w.chunk_ids[n.number + 1], n.bm25
    FROM (SELECT s.chunk_ids || ARRAY[]::uuid[] AS chunk_ids, g.numbers, g.scores
          FROM (SELECT segment, array_agg(number) AS numbers, array_agg(bm25) AS scores
                FROM unnest(%(segments)s::integer[], %(numbers)s::integer[], %(scores)s::float8[])
                    AS h (segment, number, bm25)
                GROUP BY segment) g
          JOIN segments s USING (segment) OFFSET 0) w
    CROSS JOIN LATERAL unnest(w.numbers, w.scores) AS n (number, bm25)
)"""
# CTEs, behind either and one called `rows` (id, each once): up to `addresses` (id, segment, number, length), of those
# that are in a segment. `within`: which rows may be in which segment: in the last that begins before them, or in one
# before it that reaches on behind where the next begins, as after a compaction.
ADDRESSES = """,
spans AS MATERIALIZED (
    SELECT s.*, row_number() OVER (ORDER BY first_id) AS nth,
           coalesce(last_id >= lead(first_id) OVER (ORDER BY first_id), false) AS reaches_on
    FROM segments s
),
begins AS MATERIALIZED (SELECT array_agg(first_id ORDER BY nth) AS ids FROM spans),
within AS MATERIALIZED (
    SELECT s.segment, array_agg(r.id) AS ids
    FROM (SELECT id, width_bucket(id, (SELECT ids FROM begins)) AS nth FROM rows) r JOIN spans s USING (nth)
    GROUP BY s.segment
    UNION ALL
    SELECT s.segment, array_agg(r.id)
    FROM spans s JOIN rows r ON r.id BETWEEN s.first_id AND s.last_id WHERE s.reaches_on GROUP BY s.segment
),
addresses AS MATERIALIZED (
    SELECT DISTINCT ON (id) id, segment, number - 1 AS number, lengths[number] AS length
    FROM (SELECT w.segment, w.ids, s.chunk_ids || ARRAY[]::uuid[] AS chunk_ids,
                 s.lengths || ARRAY[]::smallint[] AS lengths
          FROM within w JOIN segments s USING (segment) OFFSET 0) s
    CROSS JOIN LATERAL (SELECT id, width_bucket(id, s.chunk_ids) AS number FROM unnest(s.ids) AS r (id) OFFSET 0) r
    WHERE s.chunk_ids[number] = id
)"""
