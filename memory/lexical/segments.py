"""Where a user's blind terms are stored: a memtable and segments, as in a log-structured search index.

The terms of new chunks go into the *memtable*, one row of `memory_lexical_chunks` a chunk. When it holds
SEGMENT_CHUNKS of them, the write flushes them into a *segment*: an inverted index in 256 blocks of postings that
never change. A deleted chunk of a segment gets a *tombstone*: its bit in the segment's `live` is cleared. A segment
that has lost more than half its chunks is compacted: the live ones go back to the memtable, to be flushed again.
Document frequencies and lengths are counted from the live chunks at query time, so none can drift.

Deleting, flushing and compacting happen only under the lock of the tenant's row: there is one writer of a user at a
time, and no order of locks to get wrong. So does adding: every write takes that lock first.

What was flushed lies dead at the head of the memtable's index until a VACUUM, which a snapshot that a backup holds open
keeps from it. So the newest segment says from which id on the memtable has any chunk (`memtable_from`), and whoever
reads it begins there. A chunk that comes with an earlier id, from a writer who waited or from a segment that is
compacted, moves that place back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from memory.lexical.terms import BlindTerms
from memory.rls import TenantTransaction

SEGMENT_CHUNKS = 1024
BLOCKS = 256
LIVE_BYTES = 128  # one bit a chunk of a segment
FIRST_ID = UUID(int=0)
# A segment with fewer live chunks than this is compacted.
SEGMENT_LIVE_MIN = SEGMENT_CHUNKS // 2

_LOCK = "SELECT FROM memory_tenants WHERE user_hash = %s FOR NO KEY UPDATE"

_NEWEST = """(
    SELECT {} FROM memory_lexical_segments WHERE user_hash = %(user_hash)s AND space = %(space)s
    ORDER BY segment DESC LIMIT 1)"""
# The memtable from here on is all of it; without a segment, from its beginning. The sub-select makes it a value to the
# planner: under row-level security coalesce() itself would keep the condition from the index.
_MEMTABLE_FROM = f"(SELECT coalesce({_NEWEST.format('memtable_from')}, '{FIRST_ID}'))"
_MOVE_BACK = f"""
UPDATE memory_lexical_segments SET memtable_from = %(oldest)s
WHERE user_hash = %(user_hash)s AND space = %(space)s AND segment = {_NEWEST.format("segment")}
  AND memtable_from > %(oldest)s"""

_ADD = f"""
WITH moved_back AS ({_MOVE_BACK})
INSERT INTO memory_lexical_chunks (user_hash, space, chunk_id, length, terms, frequencies)
SELECT %(user_hash)s, %(space)s, c.chunk_id, c.length, c.terms::integer[], c.frequencies::smallint[]
FROM unnest(%(chunk_ids)s::uuid[], %(lengths)s::integer[], %(terms)s::text[], %(frequencies)s::text[])
    AS c (chunk_id, length, terms, frequencies)"""

_DELETE_FROM_MEMTABLE = """
DELETE FROM memory_lexical_chunks WHERE user_hash = %(user_hash)s AND chunk_id = ANY(%(chunk_ids)s::uuid[])
  AND (%(space)s::smallint IS NULL OR space = %(space)s::smallint)"""

_FIND_IN_SEGMENTS = """
SELECT s.space, s.segment, s.live, s.live_chunks, array_agg(c.number::integer - 1), sum(c.length)
FROM memory_lexical_segments s
CROSS JOIN LATERAL unnest(s.chunk_ids, s.lengths) WITH ORDINALITY AS c (chunk_id, length, number)
WHERE s.user_hash = %(user_hash)s AND s.last_id >= %(first)s AND s.first_id <= %(last)s
  AND (%(space)s::smallint IS NULL OR s.space = %(space)s::smallint)
  AND c.chunk_id = ANY(%(chunk_ids)s::uuid[]) AND get_bit(s.live, c.number - 1) = 1
GROUP BY s.space, s.segment, s.live, s.live_chunks"""

_SET_TOMBSTONES = """
UPDATE memory_lexical_segments SET live = %s, live_chunks = live_chunks - %s, live_length = live_length - %s
WHERE user_hash = %s AND space = %s AND segment = %s"""

_MEMTABLE_CHUNKS = f"""
SELECT count(*) FROM memory_lexical_chunks
WHERE user_hash = %(user_hash)s AND space = %(space)s AND chunk_id >= {_MEMTABLE_FROM}"""

# Oldest first, so that a segment covers a stretch of the time-ordered chunk ids.
_FLUSH = f"""
WITH flushed AS (
    DELETE FROM memory_lexical_chunks
    WHERE user_hash = %(user_hash)s AND space = %(space)s AND chunk_id >= {_MEMTABLE_FROM} AND chunk_id <= (
        SELECT chunk_id FROM memory_lexical_chunks
        WHERE user_hash = %(user_hash)s AND space = %(space)s AND chunk_id >= {_MEMTABLE_FROM}
        ORDER BY chunk_id LIMIT 1 OFFSET %(chunks)s::integer - 1)
    RETURNING chunk_id, length, terms, frequencies
), numbered AS MATERIALIZED (
    SELECT (row_number() OVER (ORDER BY chunk_id) - 1)::integer AS number, * FROM flushed
), next_segment AS MATERIALIZED (
    SELECT coalesce(max(segment) + 1, 0) AS segment FROM memory_lexical_segments
    WHERE user_hash = %(user_hash)s AND space = %(space)s
), new_segment AS (
    INSERT INTO memory_lexical_segments
        (user_hash, space, segment, chunks, live_chunks, live_length, first_id, last_id, memtable_from, live,
         chunk_ids, lengths)
    SELECT %(user_hash)s, %(space)s, n.segment, count(*), count(*), sum(length),
           (array_agg(chunk_id ORDER BY number))[1], (array_agg(chunk_id ORDER BY number DESC))[1],
           (array_agg(chunk_id ORDER BY number DESC))[1], %(live)s::bytea, array_agg(chunk_id ORDER BY number),
           array_agg(length::smallint ORDER BY number)
    FROM numbered CROSS JOIN next_segment n GROUP BY n.segment
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
    SELECT block, string_agg(int4send(posting), ''::bytea ORDER BY term, number) AS postings FROM posted GROUP BY block
)
INSERT INTO memory_lexical_blocks (user_hash, space, block, segment, terms, ends, postings)
SELECT %(user_hash)s, %(space)s, block, n.segment, terms, ends, postings
FROM termed JOIN listed USING (block) CROSS JOIN next_segment n"""

# The postings are put together once a block: get_byte() would fetch a toasted one anew for every byte.
_COMPACT = """
WITH blocks AS (
    DELETE FROM memory_lexical_blocks
    WHERE user_hash = %(user_hash)s AND space = %(space)s
      AND block = ANY(%(blocks)s::smallint[]) AND segment = %(segment)s
    RETURNING terms, ends, postings || ''::bytea AS postings
), segments AS (
    DELETE FROM memory_lexical_segments
    WHERE user_hash = %(user_hash)s AND space = %(space)s  AND segment = %(segment)s
    RETURNING live, chunk_ids, lengths
), postings AS (
    SELECT (p.upper >> 6) & 1023 AS number, b.terms[i] AS term,
           (((p.upper & 63) << 3) | (get_byte(b.postings, p.at + 2) >> 5))::smallint AS frequency
    FROM blocks b CROSS JOIN LATERAL generate_subscripts(b.terms, 1) AS i
    CROSS JOIN LATERAL (
        SELECT at, (get_byte(b.postings, at) << 8) | get_byte(b.postings, at + 1) AS upper
        FROM generate_series(4 * coalesce(b.ends[i - 1], 0), 4 * b.ends[i] - 4, 4) AS s (at)) p
), lists AS (
    SELECT number, array_agg(term ORDER BY term) AS terms, array_agg(frequency ORDER BY term) AS frequencies
    FROM postings GROUP BY number
)
INSERT INTO memory_lexical_chunks (user_hash, space, chunk_id, length, terms, frequencies)
SELECT %(user_hash)s, %(space)s, c.chunk_id, c.length,
       coalesce(l.terms, '{}'), coalesce(l.frequencies, '{}')
FROM segments s
CROSS JOIN LATERAL unnest(s.chunk_ids, s.lengths) WITH ORDINALITY AS c (chunk_id, length, number)
LEFT JOIN lists l ON l.number = c.number - 1
WHERE get_bit(s.live, c.number - 1) = 1"""


def add_terms(tx: TenantTransaction, space: int, chunks: Sequence[tuple[UUID, BlindTerms]]) -> None:
    """Put the terms of new chunks into the memtable. Queues one statement and waits for nothing."""
    if chunks:
        ids, found = zip(*chunks, strict=True)
        params = {
            "user_hash": tx.user_hash, "space": space, "oldest": min(ids), "chunk_ids": list(ids),
            "lengths": [terms.length for terms in found], "terms": _arrays(terms.ids for terms in found),
            "frequencies": _arrays(terms.frequencies for terms in found),
        }  # fmt: skip
        tx.execute(_ADD, params)


def _arrays(rows: Iterable[Sequence[int]]) -> list[str]:
    """Integer arrays as PostgreSQL's literals: an array of arrays of unequal length is no array."""
    return ["{" + ",".join(map(str, row)) + "}" for row in rows]


def remove_terms(tx: TenantTransaction, chunk_ids: Sequence[UUID], space: int | None = None) -> None:
    """Delete the terms of chunks that this transaction deletes, or set tombstones. Takes the tenant row's lock.

    `chunk_ids`: one for each row that goes. The rows of one space; without it of every space, in which a chunk may
    stand while its user is being moved.
    """
    if not chunk_ids:
        return
    tx.execute(_LOCK, [tx.user_hash])
    params = {"user_hash": tx.user_hash, "chunk_ids": list(chunk_ids), "space": space}
    from_memtable = tx.execute(_DELETE_FROM_MEMTABLE, params)
    tx.sync()
    if from_memtable.rowcount == len(chunk_ids):
        return
    span = {"first": min(chunk_ids), "last": max(chunk_ids)}
    found = tx.execute(_FIND_IN_SEGMENTS, params | span)
    for of_space, segment, live, live_chunks, numbers, length in found.fetchall():
        if live_chunks <= len(numbers):
            _drop(tx, of_space, segment)
            continue
        mask = bytearray(live)
        for number in numbers:
            mask[number >> 3] &= ~(1 << (number & 7))
        key = [tx.user_hash, of_space, segment]
        tx.execute(_SET_TOMBSTONES, [bytes(mask), len(numbers), length, *key])
        if live_chunks - len(numbers) < SEGMENT_LIVE_MIN:
            compact(tx, of_space, segment)
            flush(tx, of_space)


def flush(tx: TenantTransaction, space: int, *, segment_chunks: int | None = None) -> int:
    """Make segments of the memtable's chunks while it holds SEGMENT_CHUNKS of them; how many segments that made.

    Takes the tenant row's lock. 0.1-0.2 s a segment (measured at 70 terms a chunk), once every 1,024 chunks.
    """
    segment_chunks = segment_chunks or SEGMENT_CHUNKS
    tx.execute(_LOCK, [tx.user_hash])
    params = {"user_hash": tx.user_hash, "space": space}
    chunks = tx.execute(_MEMTABLE_CHUNKS, params).fetchone()[0]
    segments = chunks // segment_chunks
    for _ in range(segments):
        live = ((1 << segment_chunks) - 1).to_bytes(LIVE_BYTES, "little")
        tx.execute(_FLUSH, {**params, "chunks": segment_chunks, "live": live})
    return segments


def compact(tx: TenantTransaction, space: int, segment: int) -> None:
    """Take one segment apart: its live chunks go back to the memtable. The caller holds the tenant row's lock."""
    params = {"user_hash": tx.user_hash, "space": space, "segment": segment}
    tx.execute(_COMPACT, {**params, "blocks": list(range(BLOCKS))})
    _read_from_the_first(tx, space)


def _drop(tx: TenantTransaction, space: int, segment: int) -> None:
    key = [tx.user_hash, space, segment]
    where = "WHERE user_hash = %s AND space = %s AND segment = %s"
    tx.execute(f"DELETE FROM memory_lexical_segments {where}", key)
    blocks = f"DELETE FROM memory_lexical_blocks {where} AND block = ANY(%s::smallint[])"
    tx.execute(blocks, [*key, list(range(BLOCKS))])
    _read_from_the_first(tx, space)


def _read_from_the_first(tx: TenantTransaction, space: int) -> None:
    """For a segment that has gone: its chunks are in the memtable now, or what it knew of earlier ones went with it."""
    tx.execute(_MOVE_BACK, {"user_hash": tx.user_hash, "space": space, "oldest": FIRST_ID})
