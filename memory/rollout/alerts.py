"""Word to people, by Alertmanager's API (v2)."""

from __future__ import annotations

from datetime import UTC, datetime

from memory.rollout.calls import Unreachable, call

NAME = "R1CanaryRolledBack"


def send_alert(url: str, summary: str, reasons: list[str]) -> str:
    """Post a critical alert; '' when Alertmanager took it, else why it did not. Raises nothing: traffic comes first."""
    alert = {
        "labels": {"alertname": NAME, "severity": "critical", "service": "r1-memory"},
        "annotations": {"summary": summary, "description": "; ".join(reasons)},
        "startsAt": datetime.now(UTC).isoformat(),
    }
    try:
        answer = call(f"{url.rstrip('/')}/api/v2/alerts", method="POST", body=[alert])
    except Unreachable as exc:
        return str(exc)
    return "" if answer.status < 300 else f"Alertmanager answered {answer.status}"
