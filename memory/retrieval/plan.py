"""The plan of the candidate search, and the proof that it visits one user's rows only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from uuid import UUID

from django.conf import settings
from pgvector import HalfVector
from psycopg.sql import Composed, Literal

from memory.isolation.connection import Cursor, Params
from memory.isolation.own_index import read_own_indexes
from memory.lexical.bm25 import LexicalQuery
from memory.lexical.lookup import Scored
from memory.retrieval import passing
from memory.retrieval.filters import Filters
from memory.retrieval.search import Search
from memory.rls import TenantTransaction, tenant_transaction

# The tables whose every scan is judged; a partition is its table's name and a suffix.
CHUNKS = "memory_chunks"
SEARCHED_TABLES = (CHUNKS, "memory_lexical_chunks", "memory_lexical_segments", "memory_lexical_blocks")
# Any ids do: which rows a plan may visit does not depend on the words. Nobody's chunks have them; so what is asked only
# where there are hits is asked for one besides.
_PROBE_TERMS = tuple(range(6))
_PROBE_HIT = Scored([], [], [], [UUID(int=0).hex], [1.0])

_PLACEHOLDER = re.compile(r"%\((\w+)\)s")
_explained = count()
_BLOCKS, _TIMES = ("Shared Hit Blocks", "Shared Read Blocks"), ("Planning Time", "Execution Time")
_SCANS = {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}


@dataclass(frozen=True)
class Plan:
    """EXPLAIN (ANALYZE, BUFFERS) of one statement or several, as PostgreSQL's JSON tree and as text.

    `own_indexes`: of each user's own vector index the name, and the hash that its condition holds. `wants_own_index`:
    the search was to use the user's.
    """

    root: dict
    text: str
    own_indexes: Mapping[str, str] = field(default_factory=dict)
    wants_own_index: bool = False

    def nodes(self) -> Iterator[dict]:
        """Every node, the root first."""
        return (node for node, _ in self.guarded_nodes())

    def guarded_nodes(self) -> Iterator[tuple[dict, bool]]:
        """Every node, the root first, with whether it or a node above it has a One-Time Filter."""
        pending = [(self.root["Plan"], False)]
        while pending:
            node, guarded = pending.pop()
            guarded = guarded or "One-Time Filter" in node
            yield node, guarded
            pending.extend((child, guarded) for child in node.get("Plans", ()))

    def scans(self, table: str) -> list[tuple[dict, bool]]:
        """The nodes that read `table`, a partition of it or an index of either, each with whether it is guarded."""
        return [
            (node, guarded)
            for node, guarded in self.guarded_nodes()
            if node["Node Type"] in _SCANS and _name(node).startswith(table)
        ]

    def summary(self) -> dict:
        """What a person looks at first. Times in milliseconds."""
        return {
            "scans": [f"{node['Node Type']} on {_name(node)}" for node in self.nodes() if node["Node Type"] in _SCANS],
            "own_index": next((_index(n) for n in self.nodes() if _index(n) in self.own_indexes and _ran(n)), None),
            "one_time_filter": next((n["One-Time Filter"] for n in self.nodes() if "One-Time Filter" in n), None),
            "buffers": self.root["Plan"].get("Shared Hit Blocks", 0) + self.root["Plan"].get("Shared Read Blocks", 0),
            "planning_ms": self.root["Planning Time"],
            "execution_ms": self.root["Execution Time"],
        }

    def is_narrowed(self, node: dict, user_hash: str) -> bool:
        """Whether an index lets this scan read the user's rows alone: by its condition, or by being his own."""
        condition = node.get("Index Cond") or node.get("Recheck Cond") or ""
        return f"user_hash = '{user_hash}'" in condition or self._is_own(node, user_hash)

    def own_index_findings(self, user_hash: str) -> list[str]:
        """Why the search cannot be in the user's own index though it was to be; [] where it can, or was not to be.

        Under a filter that few rows pass the plan has a scan of it that is not carried out.
        """
        if not self.wants_own_index or any(self._is_own(node, user_hash) for node in self.nodes()):
            return []
        if user_hash not in self.own_indexes.values():
            return ["the user's row tells of an index of his own, and there is none: run maintain_indexes"]
        return ["the user has an index of his own, and the search does not use it"]

    def _is_own(self, node: dict, user_hash: str) -> bool:
        return self.own_indexes.get(_index(node)) == user_hash


def _name(node: dict) -> str:
    return node.get("Relation Name") or node.get("Index Name", "")


def _index(node: dict) -> str:
    return node.get("Index Name", "")


class Explaining(TenantTransaction):
    """A tenant's open transaction that explains every statement that is asked in it and reads a searched table.

    Each by the plan that it has in the service, which for some is the same whatever the parameters. `plan()`: all of
    them as one. The transaction that it is made of is not asked any more.
    """

    def __init__(self, tx: TenantTransaction):
        super().__init__(tx.connection, tx.user_hash, write=tx.write, pipeline=tx._pipeline)
        self._partition = tx._partition
        self._roots: list[dict] = []
        self._texts: list[str] = []

    def _queue(self, sql: str, params: Params | None, *, binary: bool = False) -> Cursor:
        if any(table in sql for table in SEARCHED_TABLES):
            with self._as_run(sql, params) as (run, its_params, readable):
                tree = super()._queue("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + run, its_params).fetchone()[0]
                text = super()._queue("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) " + run, its_params).fetchall()
            self._roots.append(json.loads(readable(tree if isinstance(tree, str) else json.dumps(tree)))[0])
            self._texts.append(readable("\n".join(row[0] for row in text)))
        return super()._queue(sql, params, binary=binary)

    @contextmanager
    def _as_run(self, sql: str, params: Params | None) -> Iterator[tuple[str, Params | None, Callable[[str], str]]]:
        """What EXPLAIN is to explain, and what puts the user's hash into a plan that knows it as a parameter."""
        if not self.is_keeping_plans or not isinstance(params, Mapping):
            yield sql, params, str
            return
        names = list(dict.fromkeys(_PLACEHOLDER.findall(sql)))
        numbered = _PLACEHOLDER.sub(lambda name: f"${names.index(name[1]) + 1}", sql).replace("%%", "%")
        values = Composed([Literal(_readable(params[name])) for name in names]).join(", ")
        # Under another name each time: after an error it stays.
        name = f"r1_explained_{next(_explained)}"
        super()._queue(f"PREPARE {name} AS {numbered}", None)
        number = rf"\${names.index('user_hash') + 1}\b"
        run = f"EXECUTE {name} ({values.as_string(None)})"
        yield run, None, partial(re.sub, rf"\({number}\)::text|{number}", f"'{self.user_hash}'::text")
        super()._queue(f"DEALLOCATE {name}", None)

    def plan(self, own_indexes: Mapping[str, str], *, wants_own_index: bool) -> Plan:
        """One root above the statements' own: its times and its blocks are the sums of theirs."""
        plans = [root["Plan"] for root in self._roots]
        blocks = {name: sum(plan.get(name, 0) for plan in plans) for name in _BLOCKS}
        times = {name: sum(root[name] for root in self._roots) for name in _TIMES}
        root = {"Plan": {"Node Type": "Statements", "Plans": plans, **blocks}, **times}
        return Plan(root, "\n\n".join(self._texts), own_indexes, wants_own_index)


def _readable(value: object) -> object:
    """A parameter as a literal can hold it."""
    return value.to_text() if isinstance(value, HalfVector) else value


def explain_candidates(
    user_hash: str, space: int, vector: HalfVector, limit: int, filters: Filters | None = None
) -> tuple[Plan, dict[str, int]]:
    """Explain the search as r1_app bound to `user_hash`: (plan, how many rows of each searched table the user owns).

    All its statements, as the service asks them, with what it really finds.
    """
    filters = filters or Filters()
    with tenant_transaction(user_hash) as tx:
        state, lexical = tx.state(), None
        if settings.MEMORY_LEXICAL and state is not None:
            lexical = LexicalQuery(_PROBE_TERMS, (1,) * len(_PROBE_TERMS))
        has_own_index = state is not None and state.indexed_space == space
        own = {index.name: index.own.user_hash for index in read_own_indexes(tx.connection) if index.is_valid}
        owned = {
            table: tx.execute(f"SELECT count(*) FROM {table} WHERE user_hash = %s", [user_hash]).fetchone()[0]
            for table in SEARCHED_TABLES
        }
        explaining = Explaining(tx)
        Search(explaining, space, vector, limit, filters, lexical, context=True, has_own_index=has_own_index).found()
        if lexical is not None and filters != Filters():
            passing.looked_up(explaining, space, _PROBE_HIT, filters, limit)
            passing.read(explaining, space, filters)
    return explaining.plan(own, wants_own_index=has_own_index), owned


def foreign_row_findings(plan: Plan, user_hash: str, owned_rows: dict[str, int]) -> list[str]:
    """Why this plan touches rows of others, as sentences; [] when it does not.

    Every scan of a searched table must be narrowed by an index condition on this user's hash, or be in an index of the
    user's own, must lie in one partition, must read no more rows than the user owns, and must stand under the policy's
    One-Time Filter.
    """
    findings = []
    if not plan.scans(CHUNKS):
        findings.append("the plan reads no chunk table: nothing is proved")
    elif owned_rows[CHUNKS] and not any(_gave_rows(node) for node, _ in plan.scans(CHUNKS)):
        findings.append("no scan of chunks has found a row: nothing is proved")
    for table in SEARCHED_TABLES:
        scans = plan.scans(table)
        relations = {node["Relation Name"] for node, _ in scans if "Relation Name" in node}
        if len(relations) > 1:
            findings.append(f"the plan reads {len(relations)} partitions of {table} instead of one")
        for node, guarded in scans:
            name = _name(node)
            if not plan.is_narrowed(node, user_hash):
                findings.append(f"{node['Node Type']} on {name} is not narrowed to the user by an index")
            if not guarded:
                findings.append(f"{node['Node Type']} on {name}: the policy is not a One-Time Filter above it")
            visited = _visited(node)
            if visited > owned_rows[table]:
                findings.append(
                    f"{node['Node Type']} on {name} visits {visited:.0f} rows; the user owns {owned_rows[table]}"
                )
    return findings


def _ran(node: dict) -> bool:
    return node["Actual Loops"] > 0


def _gave_rows(node: dict) -> bool:
    """Whether a scan gave any row to the node above it; a bitmap of an index gives none."""
    return node["Node Type"] != "Bitmap Index Scan" and node["Actual Loops"] * node["Actual Rows"] > 0


def _visited(node: dict) -> float:
    """Rows one run of a scan reads; a lookup by key has one run a row of what is joined to it.

    0 for a bitmap of an index: it still counts rows that are dead, and the scan of the heap above it does not. Of
    several runs it is the mean, of which PostgreSQL rounds what was removed to a whole number: at least so many.
    """
    if node["Node Type"] == "Bitmap Index Scan":
        return 0
    removed = [node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck")]
    rounded = 0.51 * sum(map(bool, removed)) if node["Actual Loops"] > 1 else 0
    return node["Actual Rows"] + sum(removed) - rounded
