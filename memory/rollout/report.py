"""What a canary run did and why, for people: `report.html`, and `staging_report.md` beside it.

    read_evidence(folder)  ->  write_report(folder)  ->  report.html, staging_report.md

The page is one file that asks no other host for anything and runs no script: style, plots and tables are in it. What
the folder says is escaped wherever it stands. A file that is missing or cannot be read is named at the top.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from memory.rollout.evidence import Evidence, read_evidence
from memory.rollout.plots import Mark, Plot, draw
from memory.rollout.shown import SHOWN, Shown, clock, load_rows, said, variants_of, verdict_of, written
from memory.rollout.staging import staging_report
from memory.rollout.tables import any_table, number_cell, table

VERDICTS = {
    "promoted": "Promoted",
    "rolled_back": "Rolled back",
    "held": "Held at its stage",
    "aborted": "Aborted",
}
_STYLE = Path(__file__).with_name("report.css")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
EVENTS_MAX = 400
# A longer table of snapshots is folded: the plots show them all.
ROWS_OPEN_MAX = 40


def write_report(folder: Path) -> list[Path]:
    """Write both files into the folder of evidence, anew; returns their paths. Raises NotADirectoryError."""
    found = read_evidence(folder)
    paths = [folder / "report.html", folder / "staging_report.md"]
    for path, text in zip(paths, (report_page(found), staging_report(found)), strict=True):
        path.write_text(text, "utf-8")
    return paths


def report_page(found: Evidence) -> str:
    """The whole page."""
    body = "".join(
        [
            "<h1>Canary run</h1>",
            _verdict(found),
            _gaps(found),
            _plots(found),
            _section("Signals at each snapshot", _snapshots(found)),
            _section("What happened", _events(found)),
            _section("Flag changes", any_table(found.flags, "No flag change was written.")),
            _section("Proxy changes", _diff(found)),
            _section("Alerts", any_table(found.alerts, "No alert was written.")),
            _section("Load of the bursts", _load(found)),
            _section("Dashboard", _dashboard(found)),
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>Canary run: {escape(_headline(found))}</title><style>{_STYLE.read_text('utf-8')}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _headline(found: Evidence) -> str:
    return VERDICTS.get(verdict_of(found), "no decision was written")


def _verdict(found: Evidence) -> str:
    verdict = verdict_of(found)
    css = verdict if verdict in VERDICTS else "unknown"
    reasons = found.decision.get("reasons")
    items = [reasons] if isinstance(reasons, str) else reasons if isinstance(reasons, list) else []
    listed = "".join(f"<li>{escape(said(reason))}</li>" for reason in items) or "<li>No reason was written.</li>"
    began, ended = (clock(found.decision.get(name)) for name in ("began", "ended"))
    stage = found.decision.get("stage")
    return (
        f'<div class="verdict {css}"><strong>{escape(_headline(found))}</strong>'
        f"<ul>{listed}</ul>"
        f"<p>Stage: {escape(said(stage)) if stage is not None else 'not written'}. "
        f"From {began} to {ended}, UTC.</p></div>"
    )


def _gaps(found: Evidence) -> str:
    lines = []
    if found.missing:
        lines.append(f"Not in this folder: {', '.join(found.missing)}.")
    if found.damaged:
        lines.append(f"Could not be read, wholly or in part: {', '.join(found.damaged)}.")
    return "".join(f'<p class="soft">{escape(line)}</p>' for line in lines)


def _plots(found: Evidence) -> str:
    if not found.snapshots:
        return _section("Signals over time", '<p class="soft">There is no snapshot to draw.</p>')
    marks = list(_marks(found))
    last = max([shot.minute for shot in found.snapshots] + [mark.minute for mark in marks])
    variants = variants_of(found)
    names = "".join(f'<span class="v{number}">{escape(name)}</span>' for number, name in enumerate(variants))
    legend = (
        f'<p class="legend">{names}<span class="limit">rolls back</span><span class="watch">watch</span>'
        '<span class="stage">stage or decision</span></p>'
    )
    percent = {"users with the new variant": [(shot.minute, shot.percent) for shot in found.snapshots]}
    plots = [Plot("Share of users with the new variant", "%", percent, is_step=True, marks=marks)]
    for shown in SHOWN:
        lines = {variant: shown.points(found, variant) for variant in variants}
        if any(value is not None for points in lines.values() for _, value in points):
            plots.append(
                Plot(shown.title, shown.unit, lines, shown.rollback, shown.watch, shown.is_at_least, marks=marks)
            )
    figures = "".join(
        f'<figure><figcaption>{escape(plot.title)} <span class="soft">{escape(plot.unit)}</span></figcaption>'
        f"{draw(plot, last)}</figure>"
        for plot in plots
    )
    return _section("Signals over time", f'{legend}<div class="plots">{figures}</div>')


def _marks(found: Evidence) -> Iterator[Mark]:
    """Where each stage begins, where it rolls back, and where it is decided for good."""
    percent_before: Any = None
    for event in found.events:
        kind, percent, verdict = event.get("kind"), event.get("percent"), event.get("verdict")
        if (minute := found.minute_of(event)) is None:
            continue
        if kind == "stage" and isinstance(percent, int | float) and percent != percent_before:
            percent_before = percent
            yield Mark(minute, f"{percent:g} %")
        elif kind == "rollback":
            yield Mark(minute, "rollback", is_decision=True)
        elif kind == "decision" and verdict in ("promoted", "held", "aborted"):
            yield Mark(minute, str(verdict), is_decision=True)


def _snapshots(found: Evidence) -> str:
    if not found.snapshots:
        return '<p class="soft">None was written.</p>'
    variants = variants_of(found)
    present = [
        (shown, variant) for shown in SHOWN for variant in variants
        if any(variant in shot.signals.get(shown.signal, {}) for shot in found.snapshots)
    ]  # fmt: skip
    head = ["Minute", "Users"] + [f"{shown.short}, {variant}" for shown, variant in present]
    rows = []
    for shot in found.snapshots:
        cells = [number_cell(f"{shot.minute:g}"), number_cell(f"{shot.percent:g} %")]
        for shown, variant in present:
            reading = shot.signals.get(shown.signal, {}).get(variant)
            cells.append(_reading_cell(shown, None if reading is None else reading.value, reading.n if reading else 0))
        rows.append(cells)
    shots = table(head, rows, numbers_from=0)
    if len(rows) <= ROWS_OPEN_MAX:
        return shots
    return f"<details><summary>{len(rows):,} snapshots</summary>{shots}</details>"


def _reading_cell(shown: Shown, value: float | None, n: int) -> str:
    if value is None:
        return number_cell("none")
    css = {"rollback": " over", "watch": " near"}.get(shown.standing(value), "")
    return f'<td class="number{css}" title="of {n:,}">{escape(shown.told(value))}</td>'


def _events(found: Evidence) -> str:
    if not found.events:
        return '<p class="soft">No event was written.</p>'
    rows = []
    for event in found.events[:EVENTS_MAX]:
        rest = {name: value for name, value in event.items() if name not in ("at", "kind", "minute")}
        minute = found.minute_of(event)
        rows.append(
            [
                f'<td class="when">{clock(event.get("at"))}</td>',
                number_cell("" if minute is None else f"{minute:.1f}"),
                f'<td class="when">{escape(said(event.get("kind")))}</td><td>{escape(written(rest))}</td>',
            ]
        )
    more = len(found.events) - EVENTS_MAX
    tail = f'<p class="soft">and {more:,} more in events.jsonl</p>' if more > 0 else ""
    return table(["At (UTC)", "Minute", "Kind", "What"], rows) + tail


def _load(found: Evidence) -> str:
    rows = load_rows(found.load)
    if not rows:
        return '<p class="soft">No request of a burst was written.</p>'
    cells = [[f"<td>{escape(row[0])}</td>", *(number_cell(cell) for cell in row[1:])] for row in rows]
    return table(["User", "Requests", "Answered 200", "Others", "p50 ms", "p95 ms"], cells, numbers_from=1)


def _dashboard(found: Evidence) -> str:
    board = found.dashboard
    if not isinstance(board, dict):
        return '<p class="soft">No dashboard was exported.</p>'
    inner = board["dashboard"] if isinstance(board.get("dashboard"), dict) else board
    panels = inner.get("panels")
    titles = (
        [said(panel.get("title")) for panel in panels if isinstance(panel, dict)] if isinstance(panels, list) else []
    )
    listed = f": {', '.join(titles)}" if titles else ""
    return (
        f"<p>{escape(said(inner.get('title', 'without a title')))}, {len(titles)} panels{escape(listed)}. "
        "The export is dashboard.json in this folder.</p>"
    )


def _diff(found: Evidence) -> str:
    if not (found.proxy_diff or "").strip():
        return '<p class="soft">The proxy was not changed, or its change was not written.</p>'
    return f'<div class="scroll"><pre>{escape(found.proxy_diff or "")}</pre></div>'


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inner}</section>"
