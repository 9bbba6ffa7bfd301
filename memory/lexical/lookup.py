"""A question's terms looked up in a user's blind index, and every chunk that holds one scored.

The index (`segments.py`) is read by one statement that travels with the search. What it finds comes as arrays and is
scored here: an occurrence costs nanoseconds in an array, and hundreds of them as a row of SQL.

A chunk is known by its number: a user's segments have 1,024 numbers each, in order, and behind them come those of the
memtable's chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from memory.isolation.connection import array
from memory.lexical.bm25 import UNIT, LexicalQuery, Weights, impacts
from memory.lexical.segments import FIRST_ID
from memory.lexical.sent_arrays import SPAN, UUID_BYTES, ids_of, integers, live_chunks, words
from memory.rls import TenantTransaction

# Of a question's terms the rarest count whose lists have so many postings together: what a search may read and hold.
# Beyond it would be twenty terms each of which is in half of 200,000 chunks.
POSTINGS_MAX = 2_000_000

_MINE = "{0}.user_hash = %(user_hash)s AND {0}.space = %(space)s::smallint"

# One row, of arrays as array_send() gives them; postings are bytes already. A block's conditions compare columns with
# columns and parameters, nothing else, so that they are LEAKPROOF and reach the index. Term lookups are binary
# searches: width_bucket() in a sorted array. `position`: a term's among the question's, from 1.
# 1. The segments; the live chunks in them, and how many terms these have together; which segments have deleted chunks,
#    and the bits of those that are not.
# 2. The ids of the memtable's chunks, and their lengths.
# 3. Of each occurrence in the memtable the chunk's id, the term's position, and the frequency.
# 4. The lists that count, one a term and segment: the term's position, the segment, how many postings there are; and
#    the postings, of 4 bytes each, behind one another.
# 5. The positions of terms whose lists do not count, and in how many chunks each is, deleted ones included.
_LOOKUP = f"""
WITH query_terms AS MATERIALIZED (
    SELECT term, block, position::integer
    FROM unnest(%(terms)s::integer[], %(blocks)s::smallint[]) WITH ORDINALITY AS q (term, block, position)
), segments AS MATERIALIZED (
    SELECT s.segment, s.chunks, s.live_chunks, s.live_length, s.live, s.memtable_from
    FROM memory_lexical_segments s WHERE {_MINE.format("s")}
), memtable AS MATERIALIZED (
    SELECT c.chunk_id, c.length, c.terms, c.frequencies FROM memory_lexical_chunks c
    WHERE {_MINE.format("c")} AND c.chunk_id >= (
        SELECT coalesce((SELECT memtable_from FROM segments ORDER BY segment DESC LIMIT 1), '{FIRST_ID}'))
), lists AS MATERIALIZED (
    SELECT q.position, b.segment, b.ends[b.nth] - coalesce(b.ends[b.nth - 1], 0) AS chunks,
           substring(b.postings, 4 * coalesce(b.ends[b.nth - 1], 0) + 1,
                     4 * (b.ends[b.nth] - coalesce(b.ends[b.nth - 1], 0))) AS postings
    FROM query_terms q CROSS JOIN LATERAL (
        SELECT segment, terms, ends, postings, width_bucket(q.term, terms) AS nth FROM memory_lexical_blocks b
        WHERE {_MINE.format("b")} AND b.block = q.block OFFSET 0) b
    WHERE b.terms[b.nth] = q.term
), counted AS MATERIALIZED (
    SELECT position, chunks, sum(chunks) OVER (ORDER BY chunks, position) <= %(postings_max)s::bigint AS counts
    FROM (SELECT position, sum(chunks)::integer AS chunks FROM lists GROUP BY position) c
)
SELECT s.*, m.*, o.*, l.*, x.*
FROM (
    SELECT array_send(array_agg(segment)), coalesce(sum(live_chunks), 0), coalesce(sum(live_length), 0),
           array_send(array_agg(segment) FILTER (WHERE live_chunks < chunks)),
           string_agg(live, ''::bytea) FILTER (WHERE live_chunks < chunks)
    FROM segments
) s CROSS JOIN (
    SELECT string_agg(uuid_send(chunk_id), ''::bytea), array_send(array_agg(length)) FROM memtable
) m CROSS JOIN (
    SELECT string_agg(uuid_send(c.chunk_id), ''::bytea), array_send(array_agg(q.position)),
           array_send(array_agg(c.frequencies[width_bucket(q.term, c.terms)]::integer))
    FROM (SELECT * FROM memtable WHERE terms && %(terms)s::integer[] OFFSET 0) c CROSS JOIN query_terms q
    WHERE c.terms[width_bucket(q.term, c.terms)] = q.term
) o CROSS JOIN (
    SELECT array_send(array_agg(l.position)), array_send(array_agg(l.segment)),
           array_send(array_agg(l.chunks)), string_agg(l.postings, ''::bytea)
    FROM lists l WHERE l.position IN (SELECT position FROM counted WHERE counts)
) l CROSS JOIN (
    SELECT array_send(array_agg(position)), array_send(array_agg(chunks)) FROM counted WHERE NOT counts
) x"""


class Lookup:
    """`query`'s terms looked up in one space of the bound tenant, queued in `tx`; `hits()` waits for the server."""

    def __init__(self, tx: TenantTransaction, space: int, query: LexicalQuery):
        self._query = query
        params = {"user_hash": tx.user_hash, "space": space, "postings_max": POSTINGS_MAX}
        self._found = tx.read_partition(_LOOKUP, params | query.params(), keeps_plan=True, binary=True)

    def hits(self) -> Hits:
        """What was found, in the snapshot of the transaction. Raises database errors."""
        [row] = self._found.fetchall()
        return Hits.of(self._query, row[:5], row[5:7], row[7:10], row[10:14], row[14:])


@dataclass(frozen=True)
class Hits:
    """p occurrences of a question's t terms in a user's n chunks, each with the chunk's number and the term's position.

    All arrays are int32[p], positions count from 0; `lengths` has the length of the occurrence's chunk. `chunks`: n.
    `segments`: int32, ascending; `memtable`: the ids of its chunks, each with its row in `memtable_lengths`, int32.
    """

    query: LexicalQuery
    chunks: int
    weights: Weights
    numbers: np.ndarray
    positions: np.ndarray
    frequencies: np.ndarray
    lengths: np.ndarray
    segments: np.ndarray
    memtable: Mapping[bytes, int]
    memtable_lengths: np.ndarray

    @classmethod
    def of(
        cls, query: LexicalQuery, segments: tuple, memtable: tuple, in_memtable: tuple, lists: tuple, too_long: tuple
    ) -> Hits:
        """From the parts of _LOOKUP's row."""
        known, damaged = np.sort(integers(segments[0])), integers(segments[3])
        counts = integers(lists[2])
        postings = words(lists[3] or b"")
        first = np.searchsorted(known, integers(lists[1])).astype(np.int32) * SPAN
        numbers = np.repeat(first, counts) + ((postings >> 22) & 1023)
        positions = np.repeat(integers(lists[0]) - 1, counts)
        found = np.stack([numbers, positions, (postings >> 13) & 511, postings & 8191])
        if len(damaged):
            found = found[:, live_chunks(known, damaged, segments[4])[numbers]]
        lengths, chunk_ids = integers(memtable[1]), ids_of(memtable[0])
        row_of = {chunk_id: row for row, chunk_id in enumerate(chunk_ids)}
        rows = np.array([row_of[chunk_id] for chunk_id in ids_of(in_memtable[0])], np.int32)
        rest = [rows + len(known) * SPAN, integers(in_memtable[1]) - 1, integers(in_memtable[2]), lengths[rows]]
        found = np.concatenate([found, np.stack(rest)], axis=1)

        holding = np.bincount(found[1], minlength=len(query.ids))
        holding[integers(too_long[0]) - 1] += integers(too_long[1])
        chunks, terms = int(segments[1]) + len(lengths), int(segments[2]) + int(lengths.sum())
        # Of a list that does not count nobody has taken off what was deleted.
        weights = Weights.of(query.counts, np.minimum(holding, chunks).tolist(), chunks, terms)
        return cls(query, chunks, weights, found[0], found[1], found[2], found[3], known, row_of, lengths)

    def idf(self) -> dict[int, float]:
        """The inverse document frequency of each of the question's terms, by its id; empty where there is no chunk."""
        return dict(zip(self.query.ids, self.weights.idf.tolist(), strict=True)) if self.chunks else {}

    @cached_property
    def _units(self) -> np.ndarray:
        """float64[n]: what each chunk scores, by its number, in whole units; 0 for one that is no hit."""
        weights = self.weights
        units = impacts(weights.terms[self.positions], self.frequencies, self.lengths, weights.length_norm)
        return np.bincount(self.numbers, units)

    def best(self, limit: int | None) -> Scored:
        """The chunks of the `limit` highest scores, all that have the last one's included; every hit, where None."""
        chosen = np.flatnonzero(self._units > 0)
        if limit is not None and len(chosen) > limit:
            reached = self._units[chosen]
            chosen = chosen[reached >= (np.partition(reached, -limit)[-limit] if limit else np.inf)]
        return self._scored(chosen)

    def best_among(self, numbers: np.ndarray, limit: int) -> Scored:
        """Of these chunks, -1 for one without terms, the `limit` that score highest; of equal ones the first."""
        known = numbers[(numbers >= 0) & (numbers < len(self._units))]
        known = known[np.argsort(-self._units[known], kind="stable")[:limit]]
        return self._scored(np.sort(known[self._units[known] > 0]))

    def _scored(self, chosen: np.ndarray) -> Scored:
        """The chunks of these numbers, ascending."""
        scores, beyond, ids = (self._units[chosen] / UNIT).tolist(), self._beyond, list(self.memtable)
        split = int(np.searchsorted(chosen, beyond))
        return Scored(
            segments=self.segments[chosen[:split] // SPAN].tolist(),
            numbers=(chosen[:split] % SPAN).tolist(),
            scores=scores[:split],
            memtable=[ids[row].hex() for row in (chosen[split:] - beyond).tolist()],
            memtable_scores=scores[split:],
        )

    def numbers_of(self, chunks: Sequence[tuple[bytes, int | None, int | None]]) -> np.ndarray:
        """int64[n]: the chunks' numbers, from each one's id, 16 bytes, and segment and number in it where it is in one.

        -1 for a chunk without terms.
        """
        in_segment = np.array([-1 if segment is None else segment for _, segment, _ in chunks], np.int64)
        first = np.searchsorted(self.segments, in_segment) * SPAN
        beyond, nowhere = self._beyond, -1 - self._beyond
        return np.array([
            beyond + self.memtable.get(chunk_id, nowhere) if number is None else begin + number
            for (chunk_id, _, number), begin in zip(chunks, first.tolist(), strict=True)
        ], np.int64)  # fmt: skip

    def sent_numbers(self, ids: bytes | None, segments: bytes | None, numbers: bytes | None) -> np.ndarray:
        """int64[n]: as `numbers_of`, as the server sends arrays; -1 in both for a chunk that is in no segment."""
        in_segment, number = integers(segments).astype(np.int64), integers(numbers)
        found = np.searchsorted(self.segments, in_segment) * SPAN + number
        for nth in np.flatnonzero(in_segment < 0).tolist():
            row = self.memtable.get(ids[nth * UUID_BYTES : (nth + 1) * UUID_BYTES]) if ids else None
            found[nth] = -1 if row is None else self._beyond + row
        return found

    def lengths_in_memtable(self, numbers: np.ndarray) -> np.ndarray:
        """int64[n]: how many terms each of these chunks has, 0 for those that are not in the memtable."""
        lengths = np.zeros(len(numbers), np.int64)
        there = numbers >= self._beyond
        lengths[there] = self.memtable_lengths[numbers[there] - self._beyond]
        return lengths

    def frequencies_of(self, numbers: np.ndarray) -> np.ndarray:
        """int64[n, t]: how often each term occurs in each of n chunks, by their numbers."""
        row_of = np.full(self._beyond + len(self.memtable) + 1, -1, np.int32)
        row_of[numbers] = np.arange(len(numbers))
        row_of[-1] = -1
        rows = row_of[self.numbers]
        asked = np.flatnonzero(rows >= 0)
        counts = np.zeros((len(numbers), len(self.query.ids)), np.int64)
        counts[rows[asked], self.positions[asked]] = self.frequencies[asked]
        return counts

    @property
    def _beyond(self) -> int:
        """The number of the memtable's first chunk."""
        return len(self.segments) * SPAN


@dataclass(frozen=True)
class Scored:
    """Chunks with their BM25 scores: of segments, by segment and number in it; of the memtable, or anywhere, by id in
    hex.
    """

    segments: list[int]
    numbers: list[int]
    scores: list[float]
    memtable: list[str]
    memtable_scores: list[float]

    def __len__(self) -> int:
        return len(self.scores) + len(self.memtable_scores)

    def params(self) -> dict:
        """The named parameters of `addresses.HITS`."""
        return {
            "segments": array(self.segments), "numbers": array(self.numbers), "scores": array(self.scores),
            "in_memtable": array(self.memtable), "memtable_scores": array(self.memtable_scores),
        }  # fmt: skip
