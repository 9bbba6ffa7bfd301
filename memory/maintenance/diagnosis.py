"""What `manage.py doctor` finds, and how it is told: a table for a person, a JSON document for a program. Pure."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `hint` is what to do about it; '' where it is as it should be."""

    check: str
    status: Status
    detail: str
    hint: str = ""


def is_fit(findings: Iterable[Finding]) -> bool:
    """Whether nothing failed; a warning keeps nobody from a deploy."""
    return all(finding.status != "fail" for finding in findings)


def table(findings: Iterable[Finding]) -> str:
    """A line each, and beneath it what to do."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<5} {finding.check:<14} {finding.detail}")
        if finding.hint:
            lines.append(f"{'':<20} -> {finding.hint}")
    return "\n".join(lines)


def document(findings: list[Finding]) -> dict[str, Any]:
    """The same for a program."""
    return {"fit": is_fit(findings), "findings": [asdict(finding) for finding in findings]}


def report_settings(problems: list[str]) -> int:
    """Tell problems of settings, without which nothing else can be looked at; the exit code."""
    hint = "see deploy/guide/settings.md; nothing else can be looked at without it"
    findings = [Finding("settings", "fail", problem, hint) for problem in problems]
    sys.stderr.write(f"{table(findings)}\n")
    sys.stdout.write(f"{json.dumps(document(findings))}\n")
    return 1
