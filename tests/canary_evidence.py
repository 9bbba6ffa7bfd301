"""A folder of evidence as a canary run leaves it, with believable values: what the pages are tried on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

BEGAN = 1_760_000_000.0
STAGES = ((0, 5), (60, 50), (120, 100))
USUAL = {
    "query_error_rate": 0.0012,
    "request_error_rate": 0.0011,
    "query_p95_ms": 182.0,
    "first_token_p95_ms": 640.0,
    "stream_success": 0.9992,
    "auth_p95_ms": 2.1,
    "rerank_p95_ms": 71.0,
    "ann_p95_ms": 24.0,
}


def write_evidence(folder: Path, *, rolls_back: bool = False, seed: int = 1) -> Path:
    """A run of three stages that promotes, or one whose errors rise at 40 minutes and are rolled back at 45."""
    dice = random.Random(seed)
    last = 45 if rolls_back else 180
    (folder / "snapshots").mkdir(parents=True)
    events: list[dict[str, Any]] = [_event(0, "started", percent=5), _event(0, "precheck", ok=True, checks=9)]
    for minute in range(5, last + 1, 5):
        began = [(at, percent) for at, percent in STAGES if at < minute]
        if (minute - 5, percent := began[-1][1]) in STAGES:
            events.append(_event(minute - 5, "stage", percent=percent))
            events.append(_event(minute - 5, "flag", name="MEMORY_CANARY_PCT", value=percent))
        is_faulty = rolls_back and minute > 38
        _snapshot(folder, minute, percent, dice, is_faulty)
        events.append(_event(minute, "check", state="roll back" if is_faulty and minute >= last else "ok"))
    reasons = ["every signal of r1 stayed within its limits at 5 %, 50 % and 100 %"]
    if rolls_back:
        reasons = ["query_error_rate of r1 is 2.1 %, over 1 % in two checks; r0.5 is at 0.1 %"]
        events += [_event(45, "alert", name="canary rolled back"), _event(45.1, "rollback", percent=0)]
    verdict = "rolled_back" if rolls_back else "promoted"
    events += [_event(last, "decision", verdict=verdict, reasons=reasons), _event(last, "finished")]
    _write_lines(folder / "events.jsonl", events)
    _write_lines(
        folder / "load.jsonl",
        [
            {"at": BEGAN + number, "user": number % 5, "status": 200 if number % 50 else 503, "ms": 90 + number % 70}
            for number in range(100)
        ],
    )
    documents = {
        "decision.json": {
            "verdict": verdict, "reasons": reasons, "stage": 5 if rolls_back else 100,
            "began": BEGAN, "ended": BEGAN + last * 60,
        },
        "flags.json": [{"at": BEGAN, "name": "MEMORY_CANARY_PCT", "before": 0, "after": 5, "actor": "canary"}],
        "alerts.json": [{"at": BEGAN + 45 * 60, "name": "canary rolled back", "sent": True}] if rolls_back else [],
        "dashboard.json": {"title": "Memory service", "panels": [{"title": "Errors"}, {"title": "Latency"}]},
    }  # fmt: skip
    for name, value in documents.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "proxy.diff").write_text("--- before\n+++ after\n-    95% stable;\n+    5% canary;\n")
    return folder


def _event(minute: float, kind: str, **more: Any) -> dict[str, Any]:
    return {"at": BEGAN + minute * 60, "kind": kind, **more}


def _snapshot(folder: Path, minute: int, percent: int, dice: random.Random, is_faulty: bool) -> None:
    signals: dict[str, Any] = {}
    for name, value in USUAL.items():
        for variant, n in (("r1", 40 * percent), ("r0.5", 40 * (100 - percent))):
            measured = value if name == "stream_success" else value * dice.uniform(0.85, 1.15)
            if name == "query_error_rate" and variant == "r1" and is_faulty:
                measured = dice.uniform(0.019, 0.024)
            is_there = n and not (name == "rerank_p95_ms" and variant == "r0.5")
            signals.setdefault(name, {})[variant] = {"value": measured if is_there else None, "n": n}
    signals["pool_share"] = {"all": {"value": dice.uniform(0.2, 0.45), "n": 1}}
    signals["rls_denied"] = signals["contradictions"] = {"all": {"value": 0, "n": 1}}
    shot = {"at": BEGAN + minute * 60, "minute": minute, "percent": percent, "signals": signals}
    (folder / "snapshots" / f"T+{minute:02}m.json").write_text(json.dumps(shot))


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
