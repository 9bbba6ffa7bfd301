"""The canary's drill puts its faults where the service has its functions, and says of each run what came of it."""

from __future__ import annotations

import importlib

import pytest

from deploy.drills.canary import SCENARIOS, Outcome, table
from deploy.drills.canary_faults import _CHANGES


@pytest.mark.parametrize("name", _CHANGES)
def test_what_a_fault_changes_is_there_to_be_changed(name):
    holder, function, _ = _CHANGES[name]
    module = importlib.import_module(name)
    assert callable(getattr(getattr(module, holder) if holder else module, function))


def test_only_faults_of_the_service_are_to_be_rolled_back():
    assert {name for name, each in SCENARIOS.items() if each.verdict == "promoted"} == {"clean", "rubbish", "flood"}
    assert all(bool(each.fault) == (each.verdict == "rolled_back") for each in SCENARIOS.values())


def test_a_run_that_ended_otherwise_than_it_should_stands_out():
    outcome = Outcome("errors", "promoted", False, None, ["nothing was seen"], ["proxy.diff"], 1.0, "run")
    assert table([outcome]).splitlines()[-1] == (
        "| errors | promoted |  | NO | nothing was seen; not in its evidence: proxy.diff |"
    )
