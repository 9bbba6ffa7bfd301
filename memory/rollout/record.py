"""The folder of evidence that a canary run writes as it goes; moments in seconds since 1970.

    events.jsonl       one object a line: {"at", "kind", "minute", ...}
    snapshots/T+NNm.json  {"at", "minute", "percent", "signals": {signal: {variant: {"value", "n"}}}}
    load.jsonl         one request of a burst a line: {"at", "user" (a number), "status", "ms"}
    flags.json, alerts.json, proxy.diff    what was changed, and who was told
    dashboard.json     each signal's course, from the snapshots
    decision.json      {"verdict", "reasons", "stage", "began", "ended"}

No token, user or text is in it. What cannot be written is counted in `lost` and stops nothing: least of all a rollback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from memory.rollout.decision import SIGNALS, Readings


class Record:
    """`clock` gives the moment, `minute` the minutes of the run's own clock, which a drill lets go faster."""

    def __init__(self, folder: Path, clock: Callable[[], float], minute: Callable[[], float]):
        self.folder, self._clock, self._minute = folder, clock, minute
        self.lost = 0

    def begin(self) -> None:
        """Make the folder and what a run may end without. Raises OSError where it cannot be written."""
        (self.folder / "snapshots").mkdir(parents=True, exist_ok=True)
        for name, text in {"events.jsonl": "", "load.jsonl": "", "proxy.diff": "", "flags.json": "[]",
                           "alerts.json": "[]"}.items():  # fmt: skip
            if not (path := self.folder / name).exists():
                path.write_text(text)

    def event(self, kind: str, **more: Any) -> None:
        self._append("events.jsonl", [{"at": self._clock(), "kind": kind, "minute": round(self._minute(), 2), **more}])

    def events(self) -> list[dict[str, Any]]:
        """What was written so far, by this process or one before it; half a line at the end is left out."""
        found = []
        for line in self._read("events.jsonl").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def load(self, requests: Iterable[dict[str, Any]]) -> None:
        self._append("load.jsonl", requests)

    def snapshot(self, percent: int, signals: Readings) -> None:
        minute = self._minute()
        said = {
            name: {variant: {"value": reading.value, "n": round(reading.n)} for variant, reading in of.items()}
            for name, of in signals.items()
        }
        name = f"T+{round(minute):02d}m"
        self._write(
            f"snapshots/{name}.json",
            {"at": self._clock(), "minute": round(minute, 2), "percent": percent, "signals": said},
        )
        self.event("snapshot", name=name)

    def changed_flag(self, name: str, before: Any, after: Any, actor: str) -> None:
        change = {"at": self._clock(), "name": name, "before": before, "after": after, "actor": actor}
        self._add("flags.json", change)
        self.event("flag", name=name, value=after)

    def alerted(self, name: str, sent: bool, why: str) -> None:
        self._add("alerts.json", {"at": self._clock(), "name": name, "sent": sent, "why": why})
        self.event("alert", name=name, sent=sent)

    def changed_proxy(self, diff: str) -> None:
        try:
            with (self.folder / "proxy.diff").open("a", encoding="utf-8") as file:
                file.write(diff)
        except OSError:
            self.lost += 1

    def decided(self, verdict: str, reasons: list[str], stage: int, began: float) -> None:
        """The run's last word, and the course of its signals."""
        self._write("dashboard.json", {"title": "Canary", "panels": self._panels()})
        document = {"verdict": verdict, "reasons": reasons, "stage": stage, "began": began, "ended": self._clock()}
        self._write("decision.json", document)

    def decided_by_hand(self, verdict: str, reason: str, stage: int, began: float) -> None:
        """The last word of a person on a run whose process died."""
        self.event("decision", verdict=verdict, reasons=[reason], stage=stage)
        self.decided(verdict, [reason], stage, began)
        self.event("finished", verdict=verdict)

    def _panels(self) -> list[dict[str, Any]]:
        """A panel a signal: its limits, and its points [minute, value, n] by variant."""
        shots = []
        for path in (self.folder / "snapshots").glob("*.json"):
            try:
                shots.append(json.loads(path.read_text("utf-8")))
            except (OSError, ValueError):
                self.lost += 1
        shots.sort(key=lambda shot: shot["minute"])
        panels = []
        for signal in SIGNALS:
            points: dict[str, list[list[Any]]] = {}
            for shot in shots:
                for variant, reading in shot["signals"].get(signal.name, {}).items():
                    points.setdefault(variant, []).append([shot["minute"], reading["value"], reading["n"]])
            panels.append(
                {
                    "title": signal.name,
                    "unit": signal.unit,
                    "watch": signal.watch,
                    "limit": signal.limit,
                    "points": points,
                }
            )
        return panels

    def _append(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        try:
            with (self.folder / name).open("a+", encoding="utf-8") as file:
                # After a kill the last line may be half: what follows begins on a line of its own.
                if file.tell() and not self._read(name).endswith("\n"):
                    file.write("\n")
                file.write("".join(json.dumps(line) + "\n" for line in lines))
        except OSError:
            self.lost += 1

    def _add(self, name: str, entry: dict[str, Any]) -> None:
        try:
            entries = json.loads(self._read(name) or "[]")
        except ValueError:
            entries = []
        self._write(name, [*entries, entry])

    def _write(self, name: str, document: Any) -> None:
        """A whole file or none: it replaces the one before."""
        path = self.folder / name
        beside = path.with_name(f".{path.name}.new")
        try:
            beside.write_text(json.dumps(document, indent=1), "utf-8")
            beside.replace(path)
        except OSError:
            self.lost += 1

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text("utf-8", errors="replace")
        except OSError:
            return ""
