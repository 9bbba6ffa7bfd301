"""The plan of the candidate search, and the proof that it visits one user's rows only."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pgvector import HalfVector

from memory.retrieval.search import Filters, candidate_statement
from memory.rls import tenant_transaction

_SCANS = {"Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Bitmap Index Scan"}


@dataclass(frozen=True)
class Plan:
    """One EXPLAIN (ANALYZE, BUFFERS) as PostgreSQL's JSON tree and as text."""

    root: dict
    text: str

    def nodes(self):
        """Every node, the root first."""
        pending = [self.root["Plan"]]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(node.get("Plans", ()))

    def scans(self, table_prefix: str) -> list[dict]:
        """The nodes that read a table whose name starts so, or one of its indexes."""
        return [
            node
            for node in self.nodes()
            if node["Node Type"] in _SCANS
            and _name(node).startswith(table_prefix)
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


def explain_candidates(user_hash: str, space: int, vector: HalfVector, limit: int) -> tuple[Plan, int]:
    """Explain the search as r1_app bound to `user_hash`: (plan, how many chunks the user owns)."""
    sql, params = candidate_statement(user_hash, space, vector, limit, Filters())
    with tenant_transaction(user_hash) as tx:
        tree = tx.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql, params).fetchone()[0]
        text = tx.execute("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) " + sql, params).fetchall()
        owned = tx.execute("SELECT count(*) FROM memory_chunks WHERE user_hash = %s", [user_hash]).fetchone()[0]
    root = json.loads(tree)[0] if isinstance(tree, str) else tree[0]
    return Plan(root, "\n".join(row[0] for row in text)), owned


def foreign_row_findings(plan: Plan, user_hash: str, owned_rows: int) -> list[str]:
    """Why this plan touches rows of others, as sentences; [] when it does not.

    Every scan of chunks must be narrowed by an index condition on this user's hash, must lie in one
    partition, must read no more rows than the user owns, and the policy must be a One-Time Filter.
    """
    findings = []
    scans = plan.scans("memory_chunks")
    if not scans:
        findings.append("the plan reads no chunk table: nothing is proved")
    elif owned_rows and not any(node["Actual Loops"] for node in scans):
        findings.append("no scan of chunks was carried out: nothing is proved")
    relations = {node["Relation Name"] for node in scans if "Relation Name" in node}
    if len(relations) > 1:
        findings.append(f"the plan reads {len(relations)} partitions instead of one")
    for node in scans:
        name = _name(node)
        condition = node.get("Index Cond") or node.get("Recheck Cond") or ""
        if f"user_hash = '{user_hash}'" not in condition:
            findings.append(f"{node['Node Type']} on {name} is not narrowed to the user by an index")
        loops = node.get("Actual Loops", 1)
        visited = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * loops
        visited += node.get("Rows Removed by Index Recheck", 0) * loops
        if visited > owned_rows:
            findings.append(f"{node['Node Type']} on {name} visits {visited:.0f} rows; the user owns {owned_rows}")
    if not any("One-Time Filter" in node for node in plan.nodes()):
        findings.append("the policy is not a One-Time Filter")
    return findings
