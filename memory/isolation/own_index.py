"""A big user's own vector index: how it is made, and how the catalogue tells one from anything else.

It is partial, on the user's partition: `WHERE user_hash = '<his hash>' AND space = <n> AND quarantined_at IS NULL`. A
search in it can find his rows alone, and costs the same however many others have. Its name says a half of the hash that
its condition holds anyway.
Vectors of every dimension stand in one column (deploy/decisions/0013), so it is on the cast to his space's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memory.isolation.connection import Connection

# Malkov & Yashunin, "Efficient and robust approximate nearest neighbor search using HNSW graphs" (2016): neighbours a
# node, and how many candidates are weighed for them. Recall against time: deploy/bench/README.md.
M, EF_CONSTRUCTION = 24, 200
# How many candidates a search weighs.
EF_SEARCH = 200
PREFIX = "memory_own_"
# From here on the planner knows what an HNSW scan costs, and takes it where it is the quicker one.
PGVECTOR_MIN = (0, 8)
TABLE = "memory_chunks"

_NAME = rf"{PREFIX}(?P<prefix>[0-9a-f]{{32}})_(?P<named_space>\d+)"
# What a killed REINDEX CONCURRENTLY leaves has the name with this at its end.
_REMAINS = r"(?P<remains>_cc(?:new|old)\d*)?"
_DEFINITION = re.compile(
    rf"CREATE INDEX {_NAME}{_REMAINS} ON public\.(?P<partition>{TABLE}_p\d\d) USING hnsw "
    r"\(\(\(embedding\)::halfvec\((?P<dimension>\d+)\)\) halfvec_cosine_ops\) "
    rf"WITH \(m='{M}', ef_construction='{EF_CONSTRUCTION}'\) "
    r"""WHERE \(\(user_hash = '(?P<user_hash>[0-9a-f]{64})'::text(?: COLLATE "C")?\) AND \(space = (?P<space>\d+)\) """
    r"AND \(quarantined_at IS NULL\)\)"
)

# Every index of a tenant's table or its partitions but those of constraints and those that are a partition of another.
INDEXES = """
SELECT t.relname::text, c.relname::text, pg_get_indexdef(i.indexrelid), i.indisvalid AND i.indisready
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
WHERE t.relnamespace = 'public'::regnamespace
  AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = 'user_hash' AND NOT a.attisdropped)
  AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
  AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
ORDER BY 1, 2"""
_OWN_TOTALS = f"""
SELECT count(*), coalesce(sum(pg_relation_size(i.indexrelid)), 0)::bigint
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relname ~ '^{PREFIX}' AND i.indisvalid AND i.indisready"""


@dataclass(frozen=True)
class OwnIndex:
    """The index of one user's vectors of one space."""

    user_hash: str
    space: int
    dimension: int

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.user_hash[:32]}_{self.space}"

    def statement(self, partition: str) -> str:
        """What builds it, outside a transaction. Nothing in it comes from a client: a hash, two integers, a name."""
        return (
            f"CREATE INDEX CONCURRENTLY {self.name} ON {partition} "
            f"USING hnsw (({vector_column(self.dimension)}) halfvec_cosine_ops) "
            f"WITH (m = {M}, ef_construction = {EF_CONSTRUCTION}) "
            f"WHERE user_hash = '{self.user_hash}' AND space = {self.space} AND quarantined_at IS NULL"
        )


@dataclass(frozen=True)
class FoundIndex:
    """An own index as the catalogue has it. Not `is_valid`: it is being built, or a killed build has left it."""

    name: str
    partition: str
    own: OwnIndex
    is_valid: bool


def vector_column(dimension: int) -> str:
    """SQL: the vectors as an own index has them; a search by anything else does not use it."""
    return f"embedding::halfvec({dimension})"


def own_index_of(name: str, partition: str, definition: str | None, is_valid: bool) -> FoundIndex | None:
    """One row of INDEXES as an own index; None where it is anything else, by any part of its definition.

    `definition`: None where the index was dropped while the catalogue was read.
    """
    found = _DEFINITION.fullmatch(definition or "")
    if found is None or found["partition"] != partition:
        return None
    own = OwnIndex(found["user_hash"], int(found["space"]), int(found["dimension"]))
    if own.name != f"{PREFIX}{found['prefix']}_{found['named_space']}" or name != own.name + (found["remains"] or ""):
        return None
    return FoundIndex(name, partition, own, is_valid and found["remains"] is None)


def read_own_indexes(conn: Connection) -> list[FoundIndex]:
    """All of them. `conn` is a Django or psycopg connection of any role."""
    with conn.cursor() as cursor:
        cursor.execute(INDEXES)
        rows = cursor.fetchall()
    found = (own_index_of(name, table, definition, is_valid) for table, name, definition, is_valid in rows)
    return [index for index in found if index is not None]


def own_index_totals(conn: Connection) -> tuple[int, int]:
    """(how many there are, their bytes), of those that searches may use."""
    with conn.cursor() as cursor:
        cursor.execute(_OWN_TOTALS)
        count, size_bytes = cursor.fetchone()
    return count, size_bytes
