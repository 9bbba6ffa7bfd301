"""The plan of the candidate search, and the proof that it visits one user's rows only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings
from pgvector import HalfVector

from memory.lexical.bm25 import LexicalQuery
from memory.retrieval.search import Filters, candidate_statement
from memory.rls import tenant_transaction

# The tables whose every scan is judged; a partition is its table's name and a suffix.
CHUNKS = "memory_chunks"
SEARCHED_TABLES = (CHUNKS, "memory_lexical_chunks", "memory_lexical_segments", "memory_lexical_blocks")
# Any ids do: which rows a plan may visit does not depend on the words.
_PROBE_TERMS = tuple(range(6))

_SCANS = {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}


@dataclass(frozen=True)
class Plan:
    """One EXPLAIN (ANALYZE, BUFFERS) as PostgreSQL's JSON tree and as text."""

    root: dict
    text: str

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
            "one_time_filter": next((n["One-Time Filter"] for n in self.nodes() if "One-Time Filter" in n), None),
            "buffers": self.root["Plan"].get("Shared Hit Blocks", 0) + self.root["Plan"].get("Shared Read Blocks", 0),
            "planning_ms": self.root["Planning Time"],
            "execution_ms": self.root["Execution Time"],
        }


def _name(node: dict) -> str:
    return node.get("Relation Name") or node.get("Index Name", "")


def explain_candidates(user_hash: str, space: int, vector: HalfVector, limit: int) -> tuple[Plan, dict[str, int]]:
    """Explain the search as r1_app bound to `user_hash`: (plan, how many rows of each searched table the user owns)."""
    with tenant_transaction(user_hash) as tx:
        state, lexical = tx.state(), None
        if settings.MEMORY_LEXICAL and state is not None:
            lexical = LexicalQuery(_PROBE_TERMS, (1,) * len(_PROBE_TERMS))
        sql, params = candidate_statement(user_hash, space, vector, limit, Filters(), lexical, context=True)
        tree = tx.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql, params).fetchone()[0]
        text = tx.execute("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) " + sql, params).fetchall()
        owned = {
            table: tx.execute(f"SELECT count(*) FROM {table} WHERE user_hash = %s", [user_hash]).fetchone()[0]
            for table in SEARCHED_TABLES
        }
    root = json.loads(tree)[0] if isinstance(tree, str) else tree[0]
    return Plan(root, "\n".join(row[0] for row in text)), owned


def foreign_row_findings(plan: Plan, user_hash: str, owned_rows: dict[str, int]) -> list[str]:
    """Why this plan touches rows of others, as sentences; [] when it does not.

    Every scan of a searched table must be narrowed by an index condition on this user's hash, must lie in
    one partition, must read no more rows than the user owns, and must stand under the policy's One-Time Filter.
    """
    findings = []
    if not plan.scans(CHUNKS):
        findings.append("the plan reads no chunk table: nothing is proved")
    elif owned_rows[CHUNKS] and not any(node["Actual Loops"] for node, _ in plan.scans(CHUNKS)):
        findings.append("no scan of chunks was carried out: nothing is proved")
    for table in SEARCHED_TABLES:
        scans = plan.scans(table)
        relations = {node["Relation Name"] for node, _ in scans if "Relation Name" in node}
        if len(relations) > 1:
            findings.append(f"the plan reads {len(relations)} partitions of {table} instead of one")
        for node, guarded in scans:
            name = _name(node)
            condition = node.get("Index Cond") or node.get("Recheck Cond") or ""
            if f"user_hash = '{user_hash}'" not in condition:
                findings.append(f"{node['Node Type']} on {name} is not narrowed to the user by an index")
            if not guarded:
                findings.append(f"{node['Node Type']} on {name}: the policy is not a One-Time Filter above it")
            visited = _visited(node)
            if visited > owned_rows[table]:
                findings.append(
                    f"{node['Node Type']} on {name} visits {visited:.0f} rows; the user owns {owned_rows[table]}"
                )
    return findings


def _visited(node: dict) -> float:
    """Rows one run of a scan reads; a lookup by key has one run a row of what is joined to it.

    0 for a bitmap of an index: it still counts rows that are dead, and the scan of the heap above it does not.
    """
    if node["Node Type"] == "Bitmap Index Scan":
        return 0
    return node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
