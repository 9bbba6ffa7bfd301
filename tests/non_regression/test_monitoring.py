"""Alerts, dashboard and guide name what there is: metrics of ours, runbooks that are files, the same thresholds."""

from __future__ import annotations

import json
import re

import pytest
import yaml

import memory.metrics
import reranker.metrics
from tests.non_regression.documents import ROOT, guide
from tests.non_regression.test_guide import metrics_of

RULES = ROOT / "deploy/prometheus/rules"
RECORDED = yaml.safe_load((RULES / "recording.yml").read_text())["groups"][0]["rules"]
ALERTS = yaml.safe_load((RULES / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "deploy/grafana/r1-memory.json").read_text())
PREFIXES = ("memory_", "rerank_", "stream_", "auth_")


def scraped() -> set[str]:
    names = set()
    for name, (kind, _) in (metrics_of(memory.metrics) | metrics_of(reranker.metrics)).items():
        names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return names


def named(expression: str) -> set[str]:
    return {name for name in re.findall(r"[a-z0-9_:]+", expression) if name.startswith(PREFIXES)}


EXPRESSIONS = [
    *(rule["expr"] for rule in RECORDED),
    *(rule["expr"] for rule in ALERTS),
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_asked_for_is_scraped_or_recorded(expression):
    assert named(expression) <= scraped() | {rule["record"] for rule in RECORDED}


def test_the_published_names_and_panels_are_there():
    assert {"memory_query_error_rate", "memory_query_p95"} <= {rule["record"] for rule in RECORDED}
    titles = " ".join(panel["title"] for panel in DASHBOARD["panels"])
    for published in (
        "Error rate",
        "p95",
        "p50",
        "r1",
        "First token",
        "Denials",
        "ANN",
        "streams",
        "pool",
        "reranked",
        "Keys",
    ):
        assert published in titles


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_who_is_told_and_what_to_do_as_the_guide_has_it(alert):
    assert (ROOT / alert["annotations"]["runbook"]).is_file()
    runbook = alert["annotations"]["runbook"].rpartition("/")[2]
    row = " | ".join([
        f"`{alert['alert']}`", "`" + alert["expr"].replace("|", "\\|") + "`", alert.get("for", "at once"),
        alert["labels"]["severity"], alert["labels"]["team"], f"[{runbook.removesuffix('.md')}](../runbooks/{runbook})",
    ])  # fmt: skip
    assert f"| {row} |" in guide("monitoring")


def test_every_alert_is_tested_to_fire_but_the_watches_of_one_that_is():
    tested = yaml.safe_load((ROOT / "deploy/prometheus/tests/alerts.yml").read_text())["tests"]
    fires = {each["alertname"] for test in tested for each in test["alert_rule_test"] if each["exp_alerts"]}
    assert {alert["alert"] for alert in ALERTS} - fires <= {
        "MemoryErrorRateWatch", "MemoryStreamsFailWatch", "MemoryAnnSlowWatch", "MemoryPoolFullWatch",
    }  # fmt: skip
