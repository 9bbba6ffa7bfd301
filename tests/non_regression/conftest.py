"""`make nonregression`: what is measured against the published targets, apart from the tests of behaviour.

Each figure is that of several runs, of which the median is judged; all are printed as one table, met or not.
"""

from __future__ import annotations

import os
from statistics import median

import pytest

RUNS = 3
TABLE = pytest.StashKey["Targets"]()


class Targets:
    """The figures of one session, each with what was asked of it."""

    def __init__(self):
        self.rows: list[tuple[str, str, str, bool]] = []

    def at_most(self, name: str, limit: float, values: list[float], unit: str = "ms") -> None:
        """Judge the median of `values`, one a run. Raises AssertionError where it is over `limit`."""
        self._judge(name, f"<= {limit:g} {unit}", values, unit, median(values) <= limit)

    def at_least(self, name: str, limit: float, values: list[float], unit: str = "%") -> None:
        """Judge the median of `values`, one a run. Raises AssertionError where it is under `limit`."""
        self._judge(name, f">= {limit:g} {unit}", values, unit, median(values) >= limit)

    def _judge(self, name: str, target: str, values: list[float], unit: str, is_met: bool) -> None:
        runs = ", ".join(f"{value:.1f}" for value in values)
        self.rows.append((name, target, f"{median(values):.1f} {unit} ({runs})", is_met))
        assert is_met, f"{name}: {median(values):.1f} {unit}, asked {target}"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Targets()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without the target these are not run: a figure needs a machine that does nothing else."""
    if "R1_NONREGRESSION" in os.environ:
        return
    measured = [item for item in items if item.get_closest_marker("measured")]
    config.hook.pytest_deselected(items=measured)
    items[:] = [item for item in items if item not in measured]


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    rows = config.stash[TABLE].rows
    if not rows:
        return
    terminalreporter.section(f"targets, the median of {RUNS} runs, and each run")
    for name, target, found, is_met in rows:
        terminalreporter.line(f"{'ok  ' if is_met else 'MISS'}  {name:<52} {target:<12} {found}")


@pytest.fixture(scope="session")
def targets(pytestconfig: pytest.Config) -> Targets:
    """Where a test puts what it measured."""
    return pytestconfig.stash[TABLE]
