"""Where a user's blind terms are stored, and how they move between the two forms.

A chunk's terms come in as one row of `memory_lexical_chunks`, *loose*. At SEGMENT_CHUNKS loose chunks
the write packs them into a *segment*: inverted, 256 blocks of postings that are never changed. A chunk
of a segment is deleted by clearing its bit; a segment that has lost half its chunks is unpacked again.
Document frequencies and lengths are counted from the living at query time, so none can drift.

Rows are removed, packed and unpacked only under the lock of the tenant's row: one writer of a user at a
time, so there is no order of locks to get wrong. Adding needs no lock: nobody else knows the chunk yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from memory.lexical.terms import BlindTerms
from memory.rls import TenantTransaction

SEGMENT_CHUNKS = 1024
BLOCKS = 256
LIVE_BYTES = 128  # one bit a chunk of a segment
# A segment with fewer living chunks than this is unpacked.
SEGMENT_LIVE_MIN = SEGMENT_CHUNKS // 2

_LOCK = "SELECT FROM memory_tenants WHERE user_hash = %s FOR NO KEY UPDATE"

_ADD = """
INSERT INTO memory_lexical_chunks (user_hash, space, generation, chunk_id, length, terms, frequencies)
SELECT %s, %s, %s, c.chunk_id, c.length, c.terms::integer[], c.frequencies::smallint[]
FROM unnest(%s::uuid[], %s::integer[], %s::text[], %s::text[]) AS c (chunk_id, length, terms, frequencies)"""

_REMOVE_LOOSE = "DELETE FROM memory_lexical_chunks WHERE user_hash = %s AND chunk_id = ANY(%s::uuid[])"

_IN_SEGMENTS = """
SELECT s.space, s.generation, s.segment, s.live, s.live_chunks, array_agg(c.number::integer - 1), sum(c.length)
FROM memory_lexical_segments s
CROSS JOIN LATERAL unnest(s.chunk_ids, s.lengths) WITH ORDINALITY AS c (chunk_id, length, number)
WHERE s.user_hash = %(user_hash)s AND s.last_id >= %(first)s AND s.first_id <= %(last)s
  AND c.chunk_id = ANY(%(chunk_ids)s::uuid[]) AND get_bit(s.live, c.number - 1) = 1
GROUP BY s.space, s.generation, s.segment, s.live, s.live_chunks"""

_BURY = """
UPDATE memory_lexical_segments SET live = %s, live_chunks = live_chunks - %s, live_length = live_length - %s
WHERE user_hash = %s AND space = %s AND generation = %s AND segment = %s"""

_COUNT_LOOSE = """
SELECT count(*) FROM memory_lexical_chunks WHERE user_hash = %s AND space = %s AND generation = %s"""

# Oldest first, so that a segment covers a stretch of the time-ordered chunk ids.
_PACK = """
WITH taken AS (
    DELETE FROM memory_lexical_chunks
    WHERE user_hash = %(user_hash)s AND space = %(space)s AND generation = %(generation)s AND chunk_id IN (
        SELECT chunk_id FROM memory_lexical_chunks
        WHERE user_hash = %(user_hash)s AND space = %(space)s AND generation = %(generation)s
        ORDER BY chunk_id LIMIT %(chunks)s)
    RETURNING chunk_id, length, terms, frequencies
), numbered AS MATERIALIZED (
    SELECT (row_number() OVER (ORDER BY chunk_id) - 1)::integer AS number, * FROM taken
), next AS MATERIALIZED (
    SELECT coalesce(max(segment) + 1, 0) AS segment FROM memory_lexical_segments
    WHERE user_hash = %(user_hash)s AND space = %(space)s AND generation = %(generation)s
), made AS (
    INSERT INTO memory_lexical_segments
        (user_hash, space, generation, segment, chunks, live_chunks, live_length, first_id, last_id, live, chunk_ids,
         lengths)
    SELECT %(user_hash)s, %(space)s, %(generation)s, next.segment, count(*), count(*), sum(length),
           (array_agg(chunk_id ORDER BY number))[1], (array_agg(chunk_id ORDER BY number DESC))[1],
           %(live)s::bytea, array_agg(chunk_id ORDER BY number), array_agg(length::smallint ORDER BY number)
    FROM numbered CROSS JOIN next GROUP BY next.segment
), posted AS MATERIALIZED (
    SELECT (t.term & 255)::smallint AS block, t.term, n.number,
           (n.number << 22) | (t.frequency::integer << 13) | n.length AS posting
    FROM numbered n CROSS JOIN LATERAL unnest(n.terms, n.frequencies) AS t (term, frequency)
), termed AS (
    SELECT block, array_agg(term ORDER BY term) AS terms, array_agg("end" ORDER BY term) AS ends
    FROM (
        SELECT block, term, (sum(count(*)) OVER (PARTITION BY block ORDER BY term))::integer AS "end"
        FROM posted GROUP BY block, term) counted
    GROUP BY block
), listed AS (
    SELECT block, array_agg(posting ORDER BY term, number) AS postings FROM posted GROUP BY block
)
INSERT INTO memory_lexical_blocks (user_hash, space, generation, block, segment, terms, ends, postings)
SELECT %(user_hash)s, %(space)s, %(generation)s, block, next.segment, terms, ends, postings
FROM termed JOIN listed USING (block) CROSS JOIN next"""

_UNPACK = """
WITH blocks AS (
    DELETE FROM memory_lexical_blocks
    WHERE user_hash = %(user_hash)s AND space = %(space)s AND generation = %(generation)s
      AND block = ANY(%(blocks)s::smallint[]) AND segment = %(segment)s
    RETURNING terms, ends, postings
), segments AS (
    DELETE FROM memory_lexical_segments
    WHERE user_hash = %(user_hash)s AND space = %(space)s AND generation = %(generation)s AND segment = %(segment)s
    RETURNING live, chunk_ids, lengths
), postings AS (
    SELECT (p.posting >> 22) & 1023 AS number, b.terms[i] AS term, ((p.posting >> 13) & 511)::smallint AS frequency
    FROM blocks b CROSS JOIN LATERAL generate_subscripts(b.terms, 1) AS i
    CROSS JOIN LATERAL unnest(b.postings[coalesce(b.ends[i - 1], 0) + 1 : b.ends[i]]) AS p (posting)
), lists AS (
    SELECT number, array_agg(term ORDER BY term) AS terms, array_agg(frequency ORDER BY term) AS frequencies
    FROM postings GROUP BY number
)
INSERT INTO memory_lexical_chunks (user_hash, space, generation, chunk_id, length, terms, frequencies)
SELECT %(user_hash)s, %(space)s, %(generation)s, c.chunk_id, c.length,
       coalesce(l.terms, '{}'), coalesce(l.frequencies, '{}')
FROM segments s
CROSS JOIN LATERAL unnest(s.chunk_ids, s.lengths) WITH ORDINALITY AS c (chunk_id, length, number)
LEFT JOIN lists l ON l.number = c.number - 1
WHERE get_bit(s.live, c.number - 1) = 1"""


def add_terms(tx: TenantTransaction, space: int, generation: int, chunks: Sequence[tuple[UUID, BlindTerms]]) -> None:
    """Store the terms of new chunks, loose. Queues one statement and waits for nothing."""
    if chunks:
        ids, found = zip(*chunks, strict=True)
        columns = [list(ids), [terms.length for terms in found]]
        columns += [_arrays(terms.ids for terms in found), _arrays(terms.frequencies for terms in found)]
        tx.execute(_ADD, [tx.user_hash, space, generation, *columns])


def _arrays(rows: Iterable[Sequence[int]]) -> list[str]:
    """Integer arrays as PostgreSQL's literals: an array of arrays of unequal length is no array."""
    return ["{" + ",".join(map(str, row)) + "}" for row in rows]


def remove_terms(tx: TenantTransaction, chunk_ids: Sequence[UUID]) -> None:
    """Forget the terms of chunks that this transaction deletes. Takes the tenant row's lock."""
    if not chunk_ids:
        return
    tx.execute(_LOCK, [tx.user_hash])
    loose = tx.execute(_REMOVE_LOOSE, [tx.user_hash, list(chunk_ids)])
    tx.sync()
    if loose.rowcount == len(chunk_ids):
        return
    span = {"first": min(chunk_ids), "last": max(chunk_ids)}
    found = tx.execute(_IN_SEGMENTS, {"user_hash": tx.user_hash, "chunk_ids": list(chunk_ids), **span})
    for space, generation, segment, live, live_chunks, numbers, length in found.fetchall():
        mask = bytearray(live)
        for number in numbers:
            mask[number >> 3] &= ~(1 << (number & 7))
        if live_chunks > len(numbers):
            key = [tx.user_hash, space, generation, segment]
            tx.execute(_BURY, [bytes(mask), len(numbers), length, *key])
            if live_chunks - len(numbers) >= SEGMENT_LIVE_MIN:
                continue
            unpack(tx, space, generation, segment)
            settle(tx, space, generation)
        else:
            _drop(tx, space, generation, segment)


def settle(tx: TenantTransaction, space: int, generation: int, *, segment_chunks: int | None = None) -> int:
    """Pack loose chunks while there are SEGMENT_CHUNKS of them; how many segments that made.

    Takes the tenant row's lock. 0.1-0.2 s a segment (measured at 70 terms a chunk), once every 1,024 chunks.
    """
    segment_chunks = segment_chunks or SEGMENT_CHUNKS
    tx.execute(_LOCK, [tx.user_hash])
    loose = tx.execute(_COUNT_LOOSE, [tx.user_hash, space, generation]).fetchone()[0]
    made = loose // segment_chunks
    for _ in range(made):
        live = ((1 << segment_chunks) - 1).to_bytes(LIVE_BYTES, "little")
        params = {"user_hash": tx.user_hash, "space": space, "generation": generation}
        tx.execute(_PACK, {**params, "chunks": segment_chunks, "live": live})
    return made


def unpack(tx: TenantTransaction, space: int, generation: int, segment: int) -> None:
    """Make the living chunks of one segment loose again. The caller holds the tenant row's lock."""
    params = {"user_hash": tx.user_hash, "space": space, "generation": generation, "segment": segment}
    tx.execute(_UNPACK, {**params, "blocks": list(range(BLOCKS))})


def _drop(tx: TenantTransaction, space: int, generation: int, segment: int) -> None:
    key = [tx.user_hash, space, generation, segment]
    where = "WHERE user_hash = %s AND space = %s AND generation = %s AND segment = %s"
    tx.execute(f"DELETE FROM memory_lexical_segments {where}", key)
    blocks = f"DELETE FROM memory_lexical_blocks {where} AND block = ANY(%s::smallint[])"
    tx.execute(blocks, [*key, list(range(BLOCKS))])
