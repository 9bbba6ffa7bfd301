"""How often a question's terms occur in given chunks, as SQL that stands behind the lexical leg in one statement.

The leg finds the best chunks and their scores; who scores a chunk with its neighbours needs the frequencies
themselves. They are looked up among the leg's own lists, so no table is read once more.
"""

from __future__ import annotations

# After the leg's CTEs and one called `asked` (id uuid, each once): up to `frequencies` (id, terms, frequencies), of the
# chunks in which terms of the question occur, and `lengths` (id, length). A segment's ids are ascending, so a chunk's
# number is found by a binary search, in an array that is taken out of TOAST once a segment.
CTES = """
asked_segments AS MATERIALIZED (
    SELECT s.segment, s.first_id, s.last_id, s.chunk_ids || ARRAY[]::uuid[] AS chunk_ids,
           s.lengths || ARRAY[]::smallint[] AS lengths
    FROM segments s WHERE EXISTS (SELECT FROM asked a WHERE a.id BETWEEN s.first_id AND s.last_id) OFFSET 0
),
addresses AS MATERIALIZED (
    SELECT a.id, (s.segment << 10) + a.number - 1 AS address, s.lengths[a.number] AS length
    FROM asked_segments s CROSS JOIN LATERAL (
        SELECT id, width_bucket(id, s.chunk_ids) AS number FROM asked WHERE id BETWEEN s.first_id AND s.last_id OFFSET 0
    ) a
    WHERE s.chunk_ids[a.number] = a.id
),
frequencies AS MATERIALIZED (
    SELECT h.chunk_id AS id, array_agg(h.term) AS terms, array_agg(h.frequency::integer) AS frequencies
    FROM memtable_hits h WHERE h.chunk_id IN (SELECT id FROM asked) GROUP BY h.chunk_id
    UNION ALL
    SELECT a.id, p.terms, p.frequencies
    FROM (SELECT address, array_agg(term) AS terms, array_agg(frequency) AS frequencies
          FROM (SELECT l.term, l.first + ((l.p >> 22) & 1023) AS address, (l.p >> 13) & 511 AS frequency
                FROM (SELECT l.term, l.first, unnest(l.postings) AS p
                      FROM lists l WHERE l.first >> 10 IN (SELECT segment FROM asked_segments)) l) posted
          WHERE address IS NULL OR address IN (SELECT address FROM addresses)
          GROUP BY address) p
    JOIN addresses a USING (address)
),
lengths AS MATERIALIZED (
    SELECT chunk_id AS id, length FROM memtable WHERE chunk_id IN (SELECT id FROM asked)
    UNION ALL SELECT id, length FROM addresses
),"""
