"""The lexical leg: BM25 over blind terms, as SQL that stands beside the vector search in one statement.

BM25 as in Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with
idf = ln(1 + (N - df + 0.5) / (df + 0.5)), which is never negative:

    score(chunk) = sum over query terms of qtf * idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean))

N, df and the mean length are counted from the user's living chunks of one space and key generation when
the statement runs, filters or not. Each term's share is rounded to 2^-30 before it is added: such sums are
exact in any order, so equal chunks score equally to the last bit, however and wherever they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory.indexing.terms import Blinder, terms
from memory.keyring import Purpose, TenantKeys

K1 = 1.2
B = 0.75
BLOCK_MASK = 255
# Of a longer question the first so many distinct terms count: what a search may cost has an end.
QUERY_TERMS_MAX = 128


@dataclass(frozen=True)
class LexicalQuery:
    """A question's blind terms with how often each occurs, and the key generation they are of."""

    generation: int
    ids: tuple[int, ...]
    counts: tuple[int, ...]

    def params(self) -> dict:
        """The named parameters that CTES uses, but for those the vector search has too."""
        return {
            "generation": self.generation,
            "terms": list(self.ids),
            "blocks": [term & BLOCK_MASK for term in self.ids],
            "counts": list(self.counts),
        }


def lexical_query(keys: TenantKeys, text: str, language: str) -> LexicalQuery:
    """`text`'s terms under the user's lexical sub-key; without ids where it has none (all stop words, say)."""
    blinder = Blinder(keys.subkey(Purpose.LEXICAL))
    counts: dict[int, int] = {}
    for term, count in list(terms(text, language).items())[:QUERY_TERMS_MAX]:
        counts[blinder.id(term)] = counts.get(blinder.id(term), 0) + count
    return LexicalQuery(keys.generation, tuple(counts), tuple(counts.values()))


_MINE = "{0}.user_hash = %(user_hash)s AND {0}.space = %(space)s::smallint AND {0}.generation = %(generation)s"
# Every constant is cast: a bare 1.2 is a numeric, whose arithmetic is ten times slower.
_SCORE = f"""sum(round(
        i.weight * h.frequency::float8
        / (h.frequency::float8 + {K1 * (1 - B)}::float8 + w.per_term * h.length::float8) * 1073741824.0::float8
    )) / 1073741824.0::float8"""

# One CTE a step, each tenant table once: planning a table costs more than reading it does for most users. A
# block's conditions compare columns with columns and parameters, nothing else, so that they are LEAKPROOF and
# reach the index. Term lookups are binary searches: width_bucket() in a sorted array.
# Expects the CTE `dense` (id) before it and ends in `placed` (id, bm25); `{best}` narrows that, or nothing does.
CTES = f"""
asked AS MATERIALIZED (
    SELECT term, block, count
    FROM unnest(%(terms)s::integer[], %(blocks)s::smallint[], %(counts)s::float8[]) AS q (term, block, count)
),
loose AS MATERIALIZED (
    SELECT c.chunk_id, c.length, c.terms, c.frequencies FROM memory_lexical_chunks c WHERE {_MINE.format("c")}
),
segments AS MATERIALIZED (
    SELECT s.segment, s.chunks, s.live_chunks, s.live_length, s.live, s.first_id, s.last_id, s.chunk_ids
    FROM memory_lexical_segments s WHERE {_MINE.format("s")}
),
whole AS MATERIALIZED (
    SELECT sum(chunks)::float8 AS chunks, {K1 * B}::float8 * sum(chunks)::float8 / sum(length)::float8 AS per_term
    FROM (SELECT count(*) AS chunks, sum(length) AS length FROM loose
          UNION ALL SELECT sum(live_chunks), sum(live_length) FROM segments) parts
),
loose_hits AS MATERIALIZED (
    SELECT c.chunk_id, c.length, q.term, c.frequencies[width_bucket(q.term, c.terms)] AS frequency
    FROM loose c CROSS JOIN asked q WHERE c.terms[width_bucket(q.term, c.terms)] = q.term
),
blocks AS MATERIALIZED (
    SELECT q.term, b.segment,
           b.postings[coalesce(b.ends[width_bucket(q.term, b.terms) - 1], 0) + 1
                      : b.ends[width_bucket(q.term, b.terms)]] AS postings
    FROM asked q JOIN memory_lexical_blocks b ON b.block = q.block
    WHERE {_MINE.format("b")} AND b.terms[width_bucket(q.term, b.terms)] = q.term
),
live_blocks AS MATERIALIZED (
    SELECT b.term, b.segment,
           CASE WHEN s.live_chunks = s.chunks THEN b.postings
           ELSE ARRAY(SELECT p FROM unnest(b.postings) AS p WHERE get_bit(s.live, (p >> 22) & 1023) = 1) END AS postings
    FROM blocks b JOIN segments s USING (segment)
),
weights AS MATERIALIZED (
    SELECT q.term, {K1 + 1}::float8 * q.count * ln(1 + (w.chunks - d.df + 0.5) / (d.df + 0.5)) AS weight
    FROM asked q CROSS JOIN whole w JOIN (
        SELECT term, sum(df)::float8 AS df FROM (
            SELECT term, count(*) AS df FROM loose_hits GROUP BY term
            UNION ALL
            SELECT term, sum(cardinality(postings)) FROM live_blocks GROUP BY term) counted
        GROUP BY term) d USING (term)
),
scores AS MATERIALIZED (
    SELECT h.chunk_id, NULL::integer AS place, {_SCORE} AS bm25
    FROM loose_hits h JOIN weights i USING (term) CROSS JOIN whole w GROUP BY h.chunk_id
    UNION ALL
    SELECT NULL, h.place, {_SCORE.replace("i.weight", "h.weight").replace("w.", "h.")}
    FROM (SELECT (b.segment << 10) + ((b.p >> 22) & 1023) AS place, b.weight, b.per_term,
                 (b.p >> 13) & 511 AS frequency, b.p & 8191 AS length
          FROM (SELECT b.segment, i.weight, w.per_term, unnest(b.postings) AS p
                FROM live_blocks b JOIN weights i USING (term) CROSS JOIN whole w) b) h
    GROUP BY h.place
),
dense_places AS MATERIALIZED (
    SELECT (s.segment << 10) + array_position(s.chunk_ids, d.id) - 1 AS place
    FROM dense d JOIN segments s ON s.first_id <= d.id AND s.last_id >= d.id
),
wanted AS MATERIALIZED (
    SELECT chunk_id, place >> 10 AS segment, place & 1023 AS number, bm25 FROM scores{{best}}
),
placed AS MATERIALIZED (
    SELECT chunk_id AS id, bm25 FROM wanted WHERE segment IS NULL
    UNION ALL
    SELECT w.chunk_ids[n.number + 1], n.bm25
    FROM (SELECT s.chunk_ids || '{{{{}}}}'::uuid[] AS chunk_ids, g.numbers, g.scores
          FROM (SELECT segment, array_agg(number) AS numbers, array_agg(bm25) AS scores
                FROM wanted WHERE segment IS NOT NULL GROUP BY segment) g
          JOIN segments s USING (segment) OFFSET 0) w
    CROSS JOIN LATERAL unnest(w.numbers, w.scores) AS n (number, bm25)
),"""

# The best by BM25, ties included, with room for those that are set aside; and what the vector search found.
# IN within OR stays a hashed lookup where the planner, who cannot know how many rows a CTE has, would else loop.
BEST = """
    WHERE bm25 >= coalesce((
            SELECT bm25 FROM scores ORDER BY bm25 DESC LIMIT 1
            OFFSET (%(limit)s - 1 + (SELECT count(*) FROM memory_chunks
                                     WHERE user_hash = %(user_hash)s AND quarantined_at IS NOT NULL))), 0)
       OR chunk_id IN (SELECT id FROM dense) OR place IN (SELECT place FROM dense_places WHERE place IS NOT NULL)"""
