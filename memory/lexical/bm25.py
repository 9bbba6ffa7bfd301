"""The lexical leg: BM25 over blind terms, as SQL that stands beside the vector search in one statement.

BM25 as in Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with
idf = ln(1 + (N - df + 0.5) / (df + 0.5)), which is never negative:

    score(chunk) = sum over query terms of qtf * idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean))

N, df and the mean length are counted from the user's live chunks of one space when the
statement runs, filters or not. Each term's impact, its part of the sum, is rounded to 2^-30 before it is added:
such sums are exact in any order, so equal chunks score equally to the last bit, however and wherever they are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from memory.lexical.segments import FIRST_ID
from memory.lexical.terms import Blinder, terms
from memory.sealing.user_keys import Purpose, SearchKey

K1 = 1.2
B = 0.75
BLOCK_MASK = 255
# Of a question with more distinct terms than this only the first so many count, which bounds what a search costs.
QUERY_TERMS_MAX = 128


@dataclass(frozen=True)
class LexicalQuery:
    """A question's blind terms with how often each occurs."""

    ids: tuple[int, ...]
    counts: tuple[int, ...]

    def params(self) -> dict:
        """The named parameters of `ctes`, without those that the vector search has too."""
        return {
            "terms": list(self.ids),
            "blocks": [term & BLOCK_MASK for term in self.ids],
            "counts": list(self.counts),
        }


def lexical_query(key: SearchKey, text: str, language: str) -> LexicalQuery:
    """`text`'s terms under the user's search key; without ids where it has none (all stop words, say)."""
    blinder = Blinder(key.subkey(Purpose.WORDS))
    counts: dict[int, int] = {}
    for term, count in list(terms(text, language).items())[:QUERY_TERMS_MAX]:
        counts[blinder.id(term)] = counts.get(blinder.id(term), 0) + count
    return LexicalQuery(tuple(counts), tuple(counts.values()))


_MINE = "{0}.user_hash = %(user_hash)s AND {0}.space = %(space)s::smallint"
# Scores are added up in units of 2^-30. FLOOR is the part of the divisor that no length changes. Every constant is
# cast: a bare 1.2 is a numeric, whose arithmetic is ten times slower.
UNIT = 2.0**30
FLOOR = K1 * (1 - B)
_UNIT = f"{UNIT}::float8"
_IMPACT = f"""round(h.weight * h.frequency::float8
        / (h.frequency::float8 + {FLOOR}::float8 + h.length_norm * h.length::float8) * {_UNIT})"""
# What rounding can add to a score, in units: half of one a term.
_ROUNDING = QUERY_TERMS_MAX
# The lists of the weightiest terms, of about so many chunks together, are read first: they seed the threshold.
_SEED_CHUNKS = 100


def _impacts(of: str) -> str:
    """SQL: the address and the impact of every posting in the lists that meet the condition `of`."""
    return f"""SELECT h.address, {_IMPACT} AS units
    FROM (SELECT l.first + ((l.p >> 22) & 1023) AS address, l.weight, l.length_norm,
                 (l.p >> 13) & 511 AS frequency, l.p & 8191 AS length
          FROM (SELECT l.first, l.weight, l.length_norm, unnest(l.postings) AS p FROM lists l WHERE {of}) l) h"""


# One CTE a step, each tenant table once: planning a table costs more than reading it does for most users. A
# block's conditions compare columns with columns and parameters, nothing else, so that they are LEAKPROOF and
# reach the index. Term lookups are binary searches: width_bucket() in a sorted array.
# A chunk is known by its id where it is in the memtable, and by its `address`, segment and number in it, where it is
# in a segment. `units` are scores, or parts of one. A term's `bound`: no chunk can have more units by this term and
# all those of less weight together.
_LISTS = f"""
query_terms AS MATERIALIZED (
    SELECT term, block, count
    FROM unnest(%(terms)s::integer[], %(blocks)s::smallint[], %(counts)s::float8[]) AS q (term, block, count)
),
segments AS MATERIALIZED (
    SELECT s.segment, s.chunks, s.live_chunks, s.live_length, s.live, s.first_id, s.last_id, s.memtable_from,
           s.chunk_ids, s.lengths
    FROM memory_lexical_segments s WHERE {_MINE.format("s")}
),
memtable AS MATERIALIZED (
    SELECT c.chunk_id, c.length, c.terms, c.frequencies FROM memory_lexical_chunks c
    WHERE {_MINE.format("c")} AND c.chunk_id >= (
        SELECT coalesce((SELECT memtable_from FROM segments ORDER BY segment DESC LIMIT 1), '{FIRST_ID}'))
),
collection AS MATERIALIZED (
    SELECT sum(chunks)::float8 AS chunks,
           {K1 * B}::float8 * sum(chunks)::float8 / nullif(sum(length), 0)::float8 AS length_norm
    FROM (SELECT count(*) AS chunks, sum(length) AS length FROM memtable
          UNION ALL SELECT sum(live_chunks), sum(live_length) FROM segments) parts
),
memtable_hits AS MATERIALIZED (
    SELECT c.chunk_id, c.length, q.term, c.frequencies[width_bucket(q.term, c.terms)] AS frequency
    FROM memtable c CROSS JOIN query_terms q WHERE c.terms[width_bucket(q.term, c.terms)] = q.term
),
posting_lists AS MATERIALIZED (
    SELECT q.term, b.segment,
           b.postings[coalesce(b.ends[width_bucket(q.term, b.terms) - 1], 0) + 1
                      : b.ends[width_bucket(q.term, b.terms)]] AS postings
    FROM query_terms q JOIN memory_lexical_blocks b ON b.block = q.block
    WHERE {_MINE.format("b")} AND b.terms[width_bucket(q.term, b.terms)] = q.term
),
live_lists AS MATERIALIZED (
    SELECT b.term, b.segment,
           CASE WHEN s.live_chunks = s.chunks THEN b.postings
           ELSE ARRAY(SELECT p FROM unnest(b.postings) AS p WHERE get_bit(s.live, (p >> 22) & 1023) = 1) END AS postings
    FROM posting_lists b JOIN segments s USING (segment)
),
weights AS MATERIALIZED (
    SELECT term, weight, sum(df) OVER (ORDER BY weight DESC, term) - df < {_SEED_CHUNKS} AS seeds,
           sum(weight) OVER (ORDER BY weight, term) * {_UNIT} + {_ROUNDING} AS bound
    FROM (
        SELECT q.term, d.df, {K1 + 1}::float8 * q.count * ln(1 + (w.chunks - d.df + 0.5) / (d.df + 0.5)) AS weight
        FROM query_terms q CROSS JOIN collection w JOIN (
            SELECT term, sum(df)::float8 AS df FROM (
                SELECT term, count(*) AS df FROM memtable_hits GROUP BY term
                UNION ALL
                SELECT term, sum(cardinality(postings)) FROM live_lists GROUP BY term) counted
            GROUP BY term) d USING (term)) weighed
),
lists AS MATERIALIZED (
    SELECT b.term, b.segment << 10 AS first, b.postings, i.weight, i.seeds, i.bound, w.length_norm
    FROM live_lists b JOIN weights i USING (term) CROSS JOIN collection w
),
memtable_scores AS MATERIALIZED (
    SELECT h.chunk_id, sum({_IMPACT}) AS units
    FROM (SELECT l.*, i.weight, w.length_norm
          FROM memtable_hits l JOIN weights i USING (term) CROSS JOIN collection w) h
    GROUP BY h.chunk_id
),"""

# Every hit with its score, for filters to choose from.
_ALL = f"""
scores AS MATERIALIZED (
    SELECT chunk_id, NULL::integer AS address, units FROM memtable_scores
    UNION ALL
    SELECT NULL, address, sum(units) FROM ({_impacts("true")}) all_impacts GROUP BY address
),
selected AS MATERIALIZED (
    SELECT chunk_id, address >> 10 AS segment, address & 1023 AS number, units / {_UNIT} AS bm25 FROM scores
),"""

# The best chunks with ties, and what the vector search found, each with its score, by MaxScore (Turtle & Flood, "Query
# Evaluation: Strategies and Optimizations", 1995):
# 1. `depth`: how many best chunks to find. Quarantined and expired ones are dropped later: there is one more for each.
# 2. `threshold`: the units of the last of them by the seed lists alone. A list is essential where its bound reaches
#    the threshold: a chunk that is in no essential list cannot be among the best.
# 3. `accumulators`: each chunk's units by the seed and the essential lists.
# 4. `survivors`: those whose units and the other lists' bound still reach the last of the best.
# 5. `scores`: the survivors' units with those by the other lists.
# IN within OR stays a hashed lookup; a join would be planned as a loop, as the planner cannot know a CTE's row count.
_LAST_OF_BEST = "ORDER BY units DESC LIMIT 1 OFFSET (SELECT chunks - 1 FROM depth)), 0)"
_BEST = f"""
dense_addresses AS MATERIALIZED (
    SELECT (s.segment << 10) + array_position(s.chunk_ids, d.id) - 1 AS address
    FROM dense d JOIN segments s ON s.first_id <= d.id AND s.last_id >= d.id
),
depth AS MATERIALIZED (
    SELECT %(limit)s
        + (SELECT count(*) FROM memory_chunks WHERE user_hash = %(user_hash)s AND quarantined_at IS NOT NULL)
        + (SELECT count(*) FROM memory_chunks WHERE user_hash = %(user_hash)s AND expires_at <= now()) AS chunks
),
seed_accumulators AS MATERIALIZED (
    SELECT address, sum(units) AS units FROM ({_impacts("l.seeds")}) seed_impacts GROUP BY address
),
threshold AS MATERIALIZED (
    SELECT coalesce((SELECT units
                     FROM (SELECT units FROM memtable_scores UNION ALL SELECT units FROM seed_accumulators) known
                     {_LAST_OF_BEST} AS units
),
accumulators AS MATERIALIZED (
    SELECT address, sum(units) AS units
    FROM (SELECT address, units FROM seed_accumulators
          UNION ALL {_impacts("NOT l.seeds AND l.bound >= (SELECT units FROM threshold)")}) impacts
    GROUP BY address
),
survivors AS MATERIALIZED (
    SELECT address, units FROM accumulators
    WHERE units + coalesce((SELECT max(bound) FROM lists WHERE NOT seeds AND bound < (SELECT units FROM threshold)), 0)
          >= coalesce((SELECT units
                       FROM (SELECT units FROM memtable_scores UNION ALL SELECT units FROM accumulators) known
                       {_LAST_OF_BEST}
       OR address IN (SELECT address FROM dense_addresses)
    UNION ALL SELECT address, 0 FROM dense_addresses WHERE address IS NOT NULL
),
scores AS MATERIALIZED (
    SELECT chunk_id, NULL::integer AS address, units FROM memtable_scores
    UNION ALL
    SELECT NULL, address, sum(units)
    FROM (SELECT address, units FROM survivors
          UNION ALL {_impacts("NOT l.seeds AND l.bound < (SELECT units FROM threshold)")}
          WHERE h.address IS NULL OR h.address IN (SELECT address FROM survivors)) impacts
    GROUP BY address HAVING sum(units) > 0
),
selected AS MATERIALIZED (
    SELECT chunk_id, address >> 10 AS segment, address & 1023 AS number, units / {_UNIT} AS bm25 FROM scores
    WHERE units >= coalesce((SELECT units FROM scores {_LAST_OF_BEST}
       OR chunk_id IN (SELECT id FROM dense)
       OR address IN (SELECT address FROM dense_addresses WHERE address IS NOT NULL)
),"""

_LEXICAL = """
lexical AS MATERIALIZED (
    SELECT chunk_id AS id, bm25 FROM selected WHERE segment IS NULL
    UNION ALL
    SELECT w.chunk_ids[n.number + 1], n.bm25
    FROM (SELECT s.chunk_ids || '{}'::uuid[] AS chunk_ids, g.numbers, g.scores
          FROM (SELECT segment, array_agg(number) AS numbers, array_agg(bm25) AS scores
                FROM selected WHERE segment IS NOT NULL GROUP BY segment) g
          JOIN segments s USING (segment) OFFSET 0) w
    CROSS JOIN LATERAL unnest(w.numbers, w.scores) AS n (number, bm25)
),"""


def ctes(*, filtered: bool) -> str:
    """The leg as CTEs, each with a comma behind it: after one called `dense` (id), up to `lexical` (id, bm25).

    `lexical` has the `limit` best and those of `dense` that are hits; every hit, if the search is `filtered`.
    """
    return _LISTS + (_ALL if filtered else _BEST) + _LEXICAL


# Of each of a question's terms its inverse document frequency, one that no chunk holds included; no row without chunks.
IDF = f"""
WITH {_LISTS.rstrip().removesuffix(",")}
SELECT q.term, coalesce(i.weight / ({K1 + 1}::float8 * q.count), ln(1 + (w.chunks + 0.5) / 0.5))
FROM query_terms q CROSS JOIN collection w LEFT JOIN weights i USING (term)
WHERE w.chunks > 0"""
