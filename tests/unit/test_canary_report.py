"""What a canary run left, as a page and as a text: complete, readable without a network, and no place for scripts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from memory.rollout.decision import BY_NAME
from memory.rollout.evidence import FILES, read_evidence
from memory.rollout.report import report_page, write_report
from memory.rollout.shown import SHOWN
from memory.rollout.staging import staging_report
from tests.canary_evidence import write_evidence

TOLD = r'"(rolled_back|alert|MEMORY_CANARY_PCT|canary rolled back|query_error_rate of[^"]*)"'
HOSTILE = '<script>alert("1")</script>'
VOID = {"meta", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """The elements of a page and its text; says what was never closed."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def promoted(tmp_path) -> Path:
    return write_evidence(tmp_path / "run")


@pytest.fixture
def rolled_back(tmp_path) -> Path:
    return write_evidence(tmp_path / "run", rolls_back=True)


def page_of(folder: Path) -> Page:
    page = Page(report_page(read_evidence(folder)))
    assert not page.open
    return page


def test_a_plot_is_drawn_of_every_signal_that_was_measured_and_of_the_percent(promoted):
    page = page_of(promoted)
    measured = [
        shown for shown in SHOWN if any(shown.signal in shot.signals for shot in read_evidence(promoted).snapshots)
    ]
    assert page.tags.count("svg") == len(measured) + 1
    assert all(shown.title in page.text for shown in measured)


def test_every_signal_of_the_table_that_decides_is_shown():
    assert {shown.signal for shown in SHOWN} == set(BY_NAME)


def test_the_verdict_and_its_reasons_come_before_anything_else(rolled_back):
    page = page_of(rolled_back)
    reason = json.loads((rolled_back / "decision.json").read_text())["reasons"][0]
    assert -1 < page.text.index("Rolled back") < page.text.index(reason) < page.text.index("Signals over time")


def test_the_page_asks_nobody_else_for_anything_and_runs_nothing(promoted):
    html = report_page(read_evidence(promoted))
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "xlink:href") or name.startswith("on")]
    assert not re.search(r"https?:|url\(|@import", html)


@pytest.mark.parametrize("name", ["decision.json", "events.jsonl", "load.jsonl", "flags.json", "alerts.json"])
def test_what_the_evidence_says_is_text_wherever_it_stands(rolled_back, name):
    path = rolled_back / name
    path.write_text(re.sub(TOLD, json.dumps(HOSTILE), path.read_text()))
    if name == "load.jsonl":
        path.write_text(json.dumps({"user": HOSTILE, "status": HOSTILE, "ms": HOSTILE}))
    assert HOSTILE.replace('"', '\\"') in path.read_text()
    page = page_of(rolled_back)
    assert "script" not in page.tags
    assert "<script" not in staging_report(read_evidence(rolled_back))


def test_names_of_variants_and_signals_cannot_leave_their_attributes(rolled_back):
    for path in (rolled_back / "snapshots").iterdir():
        path.write_text(path.read_text().replace('"r1"', json.dumps('"><script>alert(1)</script>')))
    page = page_of(rolled_back)
    assert "script" not in page.tags
    assert '"><script>' in page.text


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_is_named_and_the_rest_is_shown(rolled_back, name):
    path = rolled_back / name
    if path.is_dir():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    else:
        path.unlink()
    found = read_evidence(rolled_back)
    assert found.missing == [name]
    assert f"Not in this folder: {name}." in page_of(rolled_back).text
    assert f"Not in this folder: {name}." in staging_report(found)


def test_an_empty_folder_is_still_a_page_that_says_so(tmp_path):
    found = read_evidence(tmp_path)
    assert found.missing == list(FILES)
    assert "no decision was written" in page_of(tmp_path).text


def test_half_a_line_that_a_kill_left_costs_that_line_alone(rolled_back):
    whole = read_evidence(rolled_back).events
    path = rolled_back / "events.jsonl"
    path.write_text(path.read_text() + '{"at": 1, "ki')
    found = read_evidence(rolled_back)
    assert (found.events, found.damaged) == (whole, ["events.jsonl"])


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"minute": "1", "signals": {}}', "nonsense", '{"minute": 1, "signals": 3}']
)
def test_a_snapshot_that_is_none_is_named_and_left_out(rolled_back, text):
    before = len(read_evidence(rolled_back).snapshots)
    (rolled_back / "snapshots" / "T+99m.json").write_text(text)
    found = read_evidence(rolled_back)
    assert (len(found.snapshots), found.damaged) == (before, ["snapshots/T+99m.json"])


def test_a_value_over_its_limit_is_marked_in_both(rolled_back):
    assert '<td class="number over"' in report_page(read_evidence(rolled_back))
    assert " (!)" in staging_report(read_evidence(rolled_back))


def test_nothing_is_marked_where_every_value_is_within_its_limits(promoted):
    assert '<td class="number over"' not in report_page(read_evidence(promoted))
    assert " (!)" not in staging_report(read_evidence(promoted))


def test_an_events_minute_is_the_runs_own_where_its_clock_goes_faster(promoted):
    for path in (promoted / "snapshots").iterdir():
        shot = json.loads(path.read_text())
        began = json.loads((promoted / "decision.json").read_text())["began"]
        path.write_text(json.dumps(shot | {"at": began + shot["minute"]}))
    found = read_evidence(promoted)
    assert found.minute_of({"at": found.decision["began"] + 30}) == pytest.approx(30)


def test_both_files_are_written_into_the_folder(promoted):
    paths = write_report(promoted)
    assert [path.name for path in paths] == ["report.html", "staging_report.md"]
    assert paths[0].read_text() == report_page(read_evidence(promoted))
    assert paths[1].read_text().startswith("# Staging report")
