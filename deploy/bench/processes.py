"""What processes have cost in CPU time, by kind, from /proc: of each a tree, so that workers and backends count."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# Of /proc/<pid>/stat, behind the name: parent, and the four times of the process and of its ended children.
_PARENT, _TIMES = 1, slice(11, 15)


def cpu_seconds(roots: dict[str, int]) -> dict[str, float]:
    """By name the CPU seconds that the process and all below it have used so far. A tree holds no root of another's."""
    parents, times = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue  # it has ended
            parents[int(entry.name)] = int(fields[_PARENT])
            times[int(entry.name)] = sum(map(int, fields[_TIMES])) / _TICKS
    children: dict[int, list[int]] = defaultdict(list)
    for pid, parent in parents.items():
        children[parent].append(pid)
    names = {pid: name for name, pid in roots.items()}
    found = dict.fromkeys(roots, 0.0)
    pending = [(name, pid) for name, pid in roots.items() if pid in times]
    while pending:
        name, pid = pending.pop()
        found[name] += times[pid]
        pending += [(name, child) for child in children[pid] if child not in names]
    return found
