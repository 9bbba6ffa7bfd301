"""What an approval is given on: lines of evidence, each with its target, its value and whether it passes."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Approval = Literal["security", "performance"]
DOCUMENTS: dict[Approval, tuple[str, str]] = {
    "security": ("security_approval.md", "Evidence of a security approval"),
    "performance": ("perf_approval.md", "Evidence of a performance approval"),
}


@dataclass(frozen=True)
class Line:
    """One thing that was tried or measured. `value` and `target` are for people, units included."""

    approval: Approval
    part: str
    check: str
    target: str
    value: str
    passed: bool


def tried(part: str, check: str, problems: Sequence[str], *, target: str = "refused", value: str = "refused") -> Line:
    """A line of the security approval: passes where there are no `problems`, which are its value otherwise."""
    return Line("security", part, check, target, "; ".join(problems) or value, not problems)


def measured(approval: Approval, part: str, check: str, value: float, limit: float, unit: str, *, least=False) -> Line:
    """A number against its limit: the most it may be and not reach, or the least it must be."""
    passed = value >= limit if least else value < limit
    sign = ">=" if least else "<"
    return Line(
        approval,
        part,
        check,
        f"{sign} {limit:,g} {unit}",
        f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.4g} {unit}",
        passed,
    )


def machine() -> dict[str, Any]:
    """What the lines were measured on."""
    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def summary(lines: Sequence[Line], about: dict[str, Any]) -> dict[str, Any]:
    """The gate's whole result, as JSON has it."""
    return {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "passed": all(line.passed for line in lines),
        "failed": [f"{line.part}: {line.check}" for line in lines if not line.passed],
        "machine": machine(),
        **about,
        "lines": [asdict(line) for line in lines],
    }


def write_documents(folder: Path, lines: Sequence[Line], result: dict[str, Any]) -> list[Path]:
    """`gate.json` and one document an approval that has lines, in `folder`, which is made; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "gate.json"]
    paths[0].write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    for approval, (name, title) in DOCUMENTS.items():
        mine = [line for line in lines if line.approval == approval]
        if mine:
            paths.append(folder / name)
            paths[-1].write_text(_document(title, mine, result), "utf-8")
    return paths


def _document(title: str, lines: Sequence[Line], result: dict[str, Any]) -> str:
    failed = sum(not line.passed for line in lines)
    verdict = f"{failed} of {len(lines)} lines fail: not to be approved" if failed else f"all {len(lines)} lines pass"
    about = {name: value for name, value in result.items() if name not in ("lines", "failed", "passed", "machine")}
    told = {**about, **result["machine"]}
    text = [f"# {title}", "", f"**{verdict}.**", "", *(f"* {name}: {value}" for name, value in told.items())]
    for part in dict.fromkeys(line.part for line in lines):
        text += ["", f"## {part}", "", "| check | target | value | |", "|---|---|---|---|"]
        text += [
            f"| {' | '.join(map(_cell, (line.check, line.target, line.value, 'pass' if line.passed else 'FAIL')))} |"
            for line in lines
            if line.part == part
        ]
    return "\n".join([*text, "", "Approved by, and when: ", ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
