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

from memory.lexical.terms import Blinder, terms
from memory.sealing.keyring import Purpose, TenantKeys

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
        """The named parameters that `ctes` uses, but for those the vector search has too."""
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
# Scores are added up in units of 2^-30. Every constant is cast: a bare 1.2 is a numeric, whose arithmetic is ten
# times slower.
_UNIT = "1073741824.0::float8"
_SHARE = f"""round(h.weight * h.frequency::float8
        / (h.frequency::float8 + {K1 * (1 - B)}::float8 + h.per_term * h.length::float8) * {_UNIT})"""
# What rounding can add to a score, in units: half of one a term.
_ROUNDING = QUERY_TERMS_MAX
# Terms are opened, the weightiest first, until so many chunks hold one: that is enough for a good floor.
_OPENED_CHUNKS = 100


def _shares(of: str) -> str:
    """Place and units of every posting in the lists that meet the condition `of`."""
    return f"""SELECT h.place, {_SHARE} AS units
    FROM (SELECT l.first + ((l.p >> 22) & 1023) AS place, l.weight, l.per_term,
                 (l.p >> 13) & 511 AS frequency, l.p & 8191 AS length
          FROM (SELECT l.first, l.weight, l.per_term, unnest(l.postings) AS p FROM lists l WHERE {of}) l) h"""


# One CTE a step, each tenant table once: planning a table costs more than reading it does for most users. A
# block's conditions compare columns with columns and parameters, nothing else, so that they are LEAKPROOF and
# reach the index. Term lookups are binary searches: width_bucket() in a sorted array.
# A chunk is known by its id where it is loose, and by its `place`, segment and number, where it is packed.
# A term's `bound`: no chunk can have more units by this term and all of less weight.
_HITS = f"""
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
    SELECT term, weight, sum(df) OVER (ORDER BY weight DESC, term) - df < {_OPENED_CHUNKS} AS opens,
           sum(weight) OVER (ORDER BY weight, term) * {_UNIT} + {_ROUNDING} AS bound
    FROM (
        SELECT q.term, d.df, {K1 + 1}::float8 * q.count * ln(1 + (w.chunks - d.df + 0.5) / (d.df + 0.5)) AS weight
        FROM asked q CROSS JOIN whole w JOIN (
            SELECT term, sum(df)::float8 AS df FROM (
                SELECT term, count(*) AS df FROM loose_hits GROUP BY term
                UNION ALL
                SELECT term, sum(cardinality(postings)) FROM live_blocks GROUP BY term) counted
            GROUP BY term) d USING (term)) weighed
),
lists AS MATERIALIZED (
    SELECT b.segment << 10 AS first, b.postings, i.weight, i.opens, i.bound, w.per_term
    FROM live_blocks b JOIN weights i USING (term) CROSS JOIN whole w
),
loose_scores AS MATERIALIZED (
    SELECT h.chunk_id, sum({_SHARE}) AS units
    FROM (SELECT l.*, i.weight, w.per_term FROM loose_hits l JOIN weights i USING (term) CROSS JOIN whole w) h
    GROUP BY h.chunk_id
),"""

# Every hit with its score, for filters to choose from.
_ALL = f"""
scores AS MATERIALIZED (
    SELECT chunk_id, NULL::integer AS place, units FROM loose_scores
    UNION ALL
    SELECT NULL, place, sum(units) FROM ({_shares("true")}) all_shares GROUP BY place
),
wanted AS MATERIALIZED (
    SELECT chunk_id, place >> 10 AS segment, place & 1023 AS number, units / {_UNIT} AS bm25 FROM scores
),"""

# The best, ties included, with room for those that are set aside, and what the vector search found, each with its
# score; of all other hits nothing is reckoned that cannot matter (MaxScore: Turtle & Flood, "Query Evaluation:
# Strategies and Optimizations", 1995). A chunk that holds only terms whose bounds lie below the floor, the last place's
# units by the weightiest terms alone, is no candidate; and with the frequent ones among the terms left out, only those
# are that could still make it.
# IN within OR stays a hashed lookup where the planner, who cannot know how many rows a CTE has, would else loop.
_LAST_OF = "ORDER BY units DESC LIMIT 1 OFFSET (SELECT chunks - 1 FROM room)), 0)"
_BEST = f"""
dense_places AS MATERIALIZED (
    SELECT (s.segment << 10) + array_position(s.chunk_ids, d.id) - 1 AS place
    FROM dense d JOIN segments s ON s.first_id <= d.id AND s.last_id >= d.id
),
room AS MATERIALIZED (
    SELECT %(limit)s + count(*) AS chunks FROM memory_chunks
    WHERE user_hash = %(user_hash)s AND quarantined_at IS NOT NULL
),
opened AS MATERIALIZED (
    SELECT place, sum(units) AS units FROM ({_shares("l.opens")}) opened_shares GROUP BY place
),
floor AS MATERIALIZED (
    SELECT coalesce((SELECT units FROM (SELECT units FROM loose_scores UNION ALL SELECT units FROM opened) known
                     {_LAST_OF} AS units
),
likely AS MATERIALIZED (
    SELECT place, sum(units) AS units
    FROM (SELECT place, units FROM opened
          UNION ALL {_shares("NOT l.opens AND l.bound >= (SELECT units FROM floor)")}) shares
    GROUP BY place
),
hopeful AS MATERIALIZED (
    SELECT place, units FROM likely
    WHERE units + coalesce((SELECT max(bound) FROM lists WHERE NOT opens AND bound < (SELECT units FROM floor)), 0)
          >= coalesce((SELECT units FROM (SELECT units FROM loose_scores UNION ALL SELECT units FROM likely) known
                       {_LAST_OF}
       OR place IN (SELECT place FROM dense_places)
    UNION ALL SELECT place, 0 FROM dense_places WHERE place IS NOT NULL
),
scores AS MATERIALIZED (
    SELECT chunk_id, NULL::integer AS place, units FROM loose_scores
    UNION ALL
    SELECT NULL, place, sum(units)
    FROM (SELECT place, units FROM hopeful
          UNION ALL {_shares("NOT l.opens AND l.bound < (SELECT units FROM floor)")}
          WHERE h.place IS NULL OR h.place IN (SELECT place FROM hopeful)) shares
    GROUP BY place HAVING sum(units) > 0
),
wanted AS MATERIALIZED (
    SELECT chunk_id, place >> 10 AS segment, place & 1023 AS number, units / {_UNIT} AS bm25 FROM scores
    WHERE units >= coalesce((SELECT units FROM scores {_LAST_OF}
       OR chunk_id IN (SELECT id FROM dense) OR place IN (SELECT place FROM dense_places WHERE place IS NOT NULL)
),"""

_PLACED = """
placed AS MATERIALIZED (
    SELECT chunk_id AS id, bm25 FROM wanted WHERE segment IS NULL
    UNION ALL
    SELECT w.chunk_ids[n.number + 1], n.bm25
    FROM (SELECT s.chunk_ids || '{}'::uuid[] AS chunk_ids, g.numbers, g.scores
          FROM (SELECT segment, array_agg(number) AS numbers, array_agg(bm25) AS scores
                FROM wanted WHERE segment IS NOT NULL GROUP BY segment) g
          JOIN segments s USING (segment) OFFSET 0) w
    CROSS JOIN LATERAL unnest(w.numbers, w.scores) AS n (number, bm25)
),"""


def ctes(*, filtered: bool) -> str:
    """The leg as CTEs, each with a comma behind it: after one called `dense` (id), up to `placed` (id, bm25).

    `placed` has the `limit` best and those of `dense` that are hits; every hit, if the search is `filtered`.
    """
    return _HITS + (_ALL if filtered else _BEST) + _PLACED
