"""`staging_report.md`: one canary run as a text that goes into a review."""

from __future__ import annotations

import re
from typing import Any

from memory.rollout.evidence import Evidence
from memory.rollout.shown import SHOWN, clock, load_rows, said, variants_of, verdict_of, written

# The snapshots that a review looks at, by their minute; the last one always.
MINUTES = (15, 30, 60)
EVENTS_MAX = 100


def staging_report(found: Evidence) -> str:
    """The whole document. Everything that the evidence says is escaped: it can make no heading, table or tag."""
    reasons = found.decision.get("reasons")
    listed = reasons if isinstance(reasons, list) else [reasons] if reasons else []
    lines = [
        "# Staging report of a canary run",
        "",
        f"Verdict: **{_plain(verdict_of(found) or 'none was written')}**",
        "",
        *(f"* {_plain(reason)}" for reason in listed),
        "",
        f"Stage: {_plain(found.decision.get('stage', 'not written'))}. "
        f"From {clock(found.decision.get('began'))} to {clock(found.decision.get('ended'))}, UTC.",
        "",
    ]
    if found.missing:
        lines += [f"Not in this folder: {', '.join(found.missing)}.", ""]
    if found.damaged:
        lines += [f"Could not be read, wholly or in part: {', '.join(map(_plain, found.damaged))}.", ""]
    lines += ["## Signals", "", *_signals(found), "", "## What happened", "", *_events(found), ""]
    lines += ["## Load of the bursts", "", *_load(found), "", "## Alerts and changes", ""]
    lines += [f"* alerts: {_told(found.alerts)}", f"* flag changes: {_told(found.flags)}"]
    lines += [f"* proxy: {'changed, see proxy.diff' if (found.proxy_diff or '').strip() else 'no change was written'}"]
    return "\n".join([*lines, "", "Plots and the whole of it: report.html.", ""])


def _signals(found: Evidence) -> list[str]:
    if not found.snapshots:
        return ["No snapshot was written."]
    wanted = {min(found.snapshots, key=lambda shot: abs(shot.minute - minute)).minute for minute in MINUTES}
    wanted.add(found.snapshots[-1].minute)
    shots = [shot for shot in found.snapshots if shot.minute in wanted]
    rows = []
    for shown in SHOWN:
        for variant in variants_of(found):
            readings = [shot.signals.get(shown.signal, {}).get(variant) for shot in shots]
            if not any(readings):
                continue
            cells = [
                "none" if reading is None or reading.value is None
                else f"{shown.told(reading.value)}{'' if shown.standing(reading.value) == 'good' else ' (!)'}"
                for reading in readings
            ]  # fmt: skip
            rows.append([shown.title, _plain(variant), *cells, shown.limits()])
    return _table(["signal", "variant", *(f"{shot.minute:g} min" for shot in shots), "limits"], rows)


def _events(found: Evidence) -> list[str]:
    if not found.events:
        return ["No event was written."]
    rows = []
    for event in found.events[:EVENTS_MAX]:
        minute = found.minute_of(event)
        rest = {name: value for name, value in event.items() if name not in ("at", "kind", "minute")}
        rows.append(["" if minute is None else f"{minute:.1f}", _plain(event.get("kind")), _plain(written(rest))])
    return _table(["minute", "kind", "what"], rows)


def _load(found: Evidence) -> list[str]:
    rows = [[_plain(cell) for cell in row] for row in load_rows(found.load)]
    if not rows:
        return ["No request of a burst was written."]
    return _table(["user", "requests", "answered 200", "others", "p50 ms", "p95 ms"], rows)


def _told(value: Any) -> str:
    return _plain(value) if value else "none was written"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _plain(value: Any) -> str:
    """Text that Markdown shows as it is, in one line."""
    one_line = " ".join(said(value).split())
    escaped = re.sub(r"([\\`*_\[\]|#])", r"\\\1", one_line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
