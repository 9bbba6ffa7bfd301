"""What a canary run wrote about itself, read back from its folder.

    events.jsonl       one object a line: {"at", "kind", ...}
    snapshots/*.json   {"at", "minute", "percent", "signals": {signal: {variant: {"value", "n"}}}}
    load.jsonl         one request of the bursts a line: {"at", "user" (a number), "status", "ms"}
    decision.json      {"verdict", "reasons", "stage", "began", "ended"}
    flags.json, alerts.json, dashboard.json, proxy.diff

Any of it may be missing, cut off in the middle by a kill, or of another version: what cannot be read is named in
`missing` or `damaged`, and never an error. Moments are seconds since 1970, or ISO 8601.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILES = (
    "decision.json", "events.jsonl", "snapshots", "load.jsonl", "flags.json", "alerts.json", "dashboard.json",
    "proxy.diff",
)  # fmt: skip
# A page that holds more than this of one file is read by nobody.
TEXT_MAX_CHARS = 20_000


@dataclass(frozen=True)
class Reading:
    """One signal of one variant at one time: `value` is None where there was nothing to measure, `n` how much was."""

    value: float | None
    n: int


@dataclass(frozen=True)
class Snapshot:
    """The signals at `minute` of the run, by signal and variant; `percent` of users had the new variant."""

    minute: float
    percent: float
    signals: dict[str, dict[str, Reading]]
    at: float | None = None


@dataclass
class Evidence:
    """Everything that could be read of one run's folder."""

    folder: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    load: list[dict[str, Any]] = field(default_factory=list)
    decision: dict[str, Any] = field(default_factory=dict)
    flags: Any = None
    alerts: Any = None
    dashboard: Any = None
    proxy_diff: str | None = None
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def minute_of(self, event: dict[str, Any]) -> float | None:
        """When an event was, in minutes of the run's own clock, which may go faster than ours; None where unknown."""
        if (minute := _number(event.get("minute"))) is not None:
            return minute
        at = moment(event.get("at"))
        known = [(shot.at, shot.minute) for shot in self.snapshots if shot.at is not None]
        began = moment(self.decision.get("began")) or (moment(self.events[0].get("at")) if self.events else None)
        if at is None or began is None:
            return None
        minutes_a_second = 1 / 60
        if known and known[-1][0] > began and known[-1][1] > 0:
            minutes_a_second = known[-1][1] / (known[-1][0] - began)
        return max(0.0, (at - began) * minutes_a_second)


def read_evidence(folder: Path) -> Evidence:
    """Read a run's folder. Raises NotADirectoryError where there is none."""
    if not folder.is_dir():
        raise NotADirectoryError(str(folder))
    found = Evidence(folder)
    found.missing = [name for name in FILES if not (folder / name).exists()]
    decision = _document(found, "decision.json")
    found.decision = decision if isinstance(decision, dict) else {}
    found.events = list(_lines(found, "events.jsonl"))
    found.load = list(_lines(found, "load.jsonl"))
    found.flags, found.alerts = _document(found, "flags.json"), _document(found, "alerts.json")
    found.dashboard = _document(found, "dashboard.json")
    if (diff := _text(found, "proxy.diff")) is not None:
        found.proxy_diff = diff[:TEXT_MAX_CHARS]
    for path in sorted((folder / "snapshots").glob("*.json")):
        if (shot := _snapshot(_document(found, f"snapshots/{path.name}"))) is not None:
            found.snapshots.append(shot)
        else:
            _note_damaged(found, f"snapshots/{path.name}")
    if not found.snapshots and "snapshots" not in found.missing:
        found.missing.append("snapshots")
    found.snapshots.sort(key=lambda shot: shot.minute)
    return found


def moment(value: Any) -> float | None:
    """Seconds since 1970 of a number or an ISO 8601 text, of UTC where it names no zone; None where it is neither."""
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
        except ValueError:
            return None
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    return _number(value)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _snapshot(raw: Any) -> Snapshot | None:
    if not isinstance(raw, dict) or (minute := _number(raw.get("minute"))) is None:
        return None
    if not isinstance(signals := raw.get("signals"), dict):
        return None
    read: dict[str, dict[str, Reading]] = {}
    for name, variants in signals.items():
        if isinstance(variants, dict):
            read[str(name)] = {
                str(variant): Reading(_number(reading.get("value")), int(_number(reading.get("n")) or 0))
                for variant, reading in variants.items()
                if isinstance(reading, dict)
            }
    return Snapshot(minute, _number(raw.get("percent")) or 0.0, read, moment(raw.get("at")))


def _text(found: Evidence, name: str) -> str | None:
    try:
        return (found.folder / name).read_text("utf-8", errors="replace")
    except OSError:
        return None


def _document(found: Evidence, name: str) -> Any:
    """The file's JSON; None where it is missing or none."""
    if (text := _text(found, name)) is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        _note_damaged(found, name)
        return None


def _lines(found: Evidence, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON Lines. A run that is killed leaves half a line at the end."""
    for line in (_text(found, name) or "").splitlines():
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            yield value
        else:
            _note_damaged(found, name)


def _note_damaged(found: Evidence, name: str) -> None:
    if name not in found.damaged:
        found.damaged.append(name)
