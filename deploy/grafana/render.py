"""Draw the dashboard from what a Prometheus answers: every panel's queries asked, one page of SVG plots.

    python deploy/grafana/render.py http://127.0.0.1:9090 dashboard.html

Grafana shows the same queries; this needs none, so that a panel without data is seen before anybody looks for it in an
outage. Exit 1, with their titles, where panels have none.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
import urllib.request
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
from deploy.bench.plots import line_plot  # noqa: E402

DASHBOARD = Path(__file__).with_name("r1-memory.json")
ASK_SECONDS = 10.0
STEPS = 120
COLUMN_PX = 62


def answers(prometheus: str, expression: str, *, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """Each series of the last `seconds` by its labels: (seconds from the first point, value)."""
    now = time.time()
    query = urllib.parse.urlencode(
        {"query": expression, "start": now - seconds, "end": now, "step": max(1.0, seconds / STEPS)}
    )
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{query}", timeout=ASK_SECONDS) as response:
        found = json.load(response)["data"]["result"]
    return {
        json.dumps(series["metric"], sort_keys=True): [
            (at - (now - seconds), float(value)) for at, value in series["values"] if value != "NaN"
        ]
        for series in found
    }


def named(legend: str, labels: dict[str, str]) -> str:
    """A legend with its labels put in."""
    for name, value in labels.items():
        legend = legend.replace("{{" + name + "}}", value)
    return legend


def panel_series(prometheus: str, panel: dict[str, Any], *, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """What a panel would show; series without a point are left out."""
    shown: dict[str, list[tuple[float, float]]] = {}
    for target in panel["targets"]:
        for labels, points in answers(prometheus, target["expr"], seconds=seconds).items():
            if points:
                shown[named(target["legendFormat"], json.loads(labels))] = points
    return shown


def render(prometheus: str, *, seconds: float) -> tuple[str, list[str]]:
    """(the page, the titles of the panels that have no data)."""
    dashboard = json.loads(DASHBOARD.read_text())
    drawn, empty = [], []
    for panel in dashboard["panels"]:
        series = panel_series(prometheus, panel, seconds=seconds)
        if not series:
            empty.append(panel["title"])
        place = panel["gridPos"]
        style = f"grid-column: {place['x'] + 1} / span {place['w']}"
        if panel["type"] == "stat":
            value = ", ".join(f"{name}: {points[-1][1]:.4g}" for name, points in series.items()) or "no data"
            drawn.append(f'<figure style="{style}"><h2>{escape(panel["title"])}</h2><p>{escape(value)}</p></figure>')
        else:
            unit = panel["fieldConfig"]["defaults"]["unit"]
            for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:]:
                series[f"limit {step['value']:g}"] = [(0.0, step["value"]), (seconds, step["value"])]
            drawn.append(f'<figure style="{style}">{line_plot(panel["title"], "seconds", unit, series)}</figure>')
    page = (
        f"<!doctype html><meta charset='utf-8'><title>{escape(dashboard['title'])}</title><style>"
        f"body{{display:grid;grid-template-columns:repeat(24,{COLUMN_PX}px);gap:8px;font:14px sans-serif}}"
        "figure{margin:0;border:1px solid #ddd;padding:4px}h2{font-size:13px;margin:4px}p{font-size:18px;margin:4px}"
        f"svg{{width:100%}}</style>{''.join(drawn)}"
    )
    return page, empty


def main(prometheus: str, out: str, seconds: float = 300.0) -> int:
    page, empty = render(prometheus.rstrip("/"), seconds=seconds)
    Path(out).write_text(page)
    for title in empty:
        sys.stderr.write(f"no data: {title}\n")
    return 1 if empty else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
