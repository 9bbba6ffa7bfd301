"""The guide says what the code does: every setting, metric, error and command, with its values."""

import argparse
import ast
import importlib
import re
from functools import cache
from types import ModuleType
from typing import get_args

import pytest
from django.core.management import BaseCommand, load_command_class
from prometheus_client.metrics import MetricWrapperBase

import memory.metrics
import reranker.metrics
from memory.admission.rates import RATE_SETTINGS
from memory.problems import PROBLEMS, Outcome
from memory.rollout.flags import FLAGS
from r1site.metrics import MEMORY_PREFIXES
from r1site.settings.databases import ROLES
from reranker import REASONS
from tests.non_regression.documents import GUIDE, ROOT, guide, make_targets, quoted, rows

ENV_READERS = {f"env.{name}" for name in ("text", "texts", "boolean", "integer", "decimal", "rate", "secret")}
READERS = {"text", "texts", "boolean", "integer", "decimal", "rate", "secret"}
# How the launcher talks to itself and pytest-xdist to its workers; where programs are.
NOT_FOR_PEOPLE = {"R1_STOP_WITH_PARENT", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PATH"}
# Defaults that are computed, or that another module knows.
TOLD_IN_WORDS = {
    "MEMORY_RESERVED_THREADS": "a tenth of the threads, at least 1",
    "MEMORY_QUERIES_AT_ONCE": "twice the cores, at least 4",
    "MEMORY_USER_CONCURRENCY": "a tenth of the threads, at least 4",
    "MEMORY_EMBEDDING_SHA256": "known for the default",
    "MEMORY_EMBEDDING_FILES_SHA256": "known for the default",
    "CROSS_ENCODER_REVISION": "pinned for the default",
    "DATABASE_URL": "the embedded server",
}
READERS_OF_THE_GUIDE = ("client developers", "operators", "contributors")


def source_trees() -> list[ast.Module]:
    folders = ("r1site", "memory", "reranker", "deploy/gunicorn")
    files = [ROOT / "manage.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    return [ast.parse(path.read_text()) for path in files]


def constant(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def environment_name(node: ast.AST) -> str | None:
    """The variable that an expression reads, where its name stands there."""
    if isinstance(node, ast.Call) and node.args:
        callee = ast.unparse(node.func)
        is_reader = callee.startswith("env.") and callee.removeprefix("env.") in READERS
        if is_reader or callee in ("Secret", "_at_least_one", "os.environ.get", "os.environ.setdefault", "os.getenv"):
            return constant(node.args[0])
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
        return constant(node.slice)
    if isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
        return constant(node.left)
    return None


@cache
def settings_read() -> frozenset[str]:
    names = {name for tree in source_trees() for node in ast.walk(tree) if (name := environment_name(node))}
    names |= {f"DATABASE_{alias.upper()}_URL" for alias in ROLES if alias != "default"}
    return frozenset({name.removesuffix("_FILE") for name in names} - NOT_FOR_PEOPLE)


def settings_shown() -> dict[str, list[str]]:
    """Each setting with its row: names, default, range, what it is."""
    return {name: row for row in rows(guide("settings")) for name in quoted(row[0])}


@cache
def calls_of_readers() -> dict[str, ast.Call]:
    """Each setting of r1site/settings that a typed reader reads, with the call."""
    found = {}
    for path in (ROOT / "r1site/settings").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ENV_READERS and constant(node.args[0]):
                found.setdefault(node.args[0].value, node)
    return found


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


def default_in_code(call: ast.Call) -> str:
    """As the environment would say it; '' where there is none. Raises ValueError where it is computed."""
    kind = ast.unparse(call.func).removeprefix("env.")
    if kind == "secret":
        return "required" if ast.literal_eval(keyword(call, "required")) else ""
    if len(call.args) < 2:
        return ""
    value = ast.literal_eval(call.args[1])
    if kind == "texts":
        return ",".join(value)
    return str(value).lower() if kind == "boolean" else str(value)


def test_every_setting_the_code_reads_is_shown_and_no_other():
    assert len(settings_read()) > 80
    assert settings_read() == set(settings_shown())


@pytest.mark.parametrize("name", sorted(calls_of_readers()))
def test_the_default_shown_is_that_in_the_code(name):
    shown = settings_shown()[name][1].strip("`")
    if name in TOLD_IN_WORDS:
        assert shown == TOLD_IN_WORDS[name]
    else:
        assert shown == default_in_code(calls_of_readers()[name])


def test_only_computed_defaults_are_told_in_words():
    for name in TOLD_IN_WORDS:
        try:
            assert default_in_code(calls_of_readers()[name]) in ("", "required"), name
        except ValueError:
            continue


@pytest.mark.parametrize("name", sorted(name for name, call in calls_of_readers().items() if keyword(call, "at_least")))
def test_the_range_shown_is_that_in_the_code(name):
    call = calls_of_readers()[name]
    least, most = (float(bound) for bound in settings_shown()[name][2].split(" to "))
    assert least == ast.literal_eval(keyword(call, "at_least"))
    assert most == ast.literal_eval(keyword(call, "at_most"))


@pytest.mark.parametrize("name", sorted(name for name, call in calls_of_readers().items() if keyword(call, "choices")))
def test_the_choices_shown_are_those_in_the_code(name):
    module = importlib.import_module("r1site.settings.base")
    expression = ast.Expression(keyword(calls_of_readers()[name], "choices"))
    choices = set(eval(compile(expression, name, "eval"), vars(module)))
    if name == "MEMORY_LEXICAL_LANGUAGE":
        named = re.search(r"^Languages: (.*?)\.$", guide("settings"), re.MULTILINE | re.DOTALL)[1]
        assert set(quoted(named)) | {"none"} == choices
    else:
        assert set(quoted(settings_shown()[name][2])) == choices


def test_a_setting_that_a_file_may_hold_is_marked_as_a_secret():
    marked = {name for name, row in settings_shown().items() if row[3].startswith("*secret*")}
    secrets = {name for name, call in calls_of_readers().items() if ast.unparse(call.func) == "env.secret"}
    for tree in source_trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Secret" and constant(node.args[0]):
                secrets.add(node.args[0].value)
    secrets |= {f"DATABASE_{alias.upper()}_URL" for alias in ROLES if alias != "default"}
    assert marked == secrets


def metrics_of(module: ModuleType) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Each metric by the name that it is scraped under: type, labels."""
    found = {}
    for metric in vars(module).values():
        if isinstance(metric, MetricWrapperBase):
            name = f"{metric._name}_total" if metric._type == "counter" else metric._name
            found[name] = (metric._type, metric._labelnames)
    return found


def test_every_metric_is_shown_with_its_type_and_labels_and_no_other():
    ours = metrics_of(memory.metrics) | metrics_of(reranker.metrics)
    assert len(ours) > 20
    listed = [row for row in rows(guide("metrics")) if len(row) == 4]
    shown = {quoted(name)[0]: (kind, tuple(quoted(labels))) for name, kind, labels, _ in listed}
    assert len(shown) == len(listed)
    assert shown == ours


def test_every_metric_is_of_those_that_the_memory_exposition_shows():
    assert all(name.startswith(MEMORY_PREFIXES) for name in metrics_of(memory.metrics) | metrics_of(reranker.metrics))


def test_the_reasons_shown_are_those_that_are_counted():
    text = guide("metrics").partition("`outcome`\nis one of:")[2].partition("\n## ")[0]
    assert {quoted(row[0])[0] for row in rows(text)} == set(get_args(Outcome))
    skipped = guide("reranking").partition("## Why it was skipped")[2].partition("\n## ")[0]
    assert {quoted(row[0])[0] for row in rows(skipped)} == {*REASONS, "not_requested"}


def test_every_error_is_shown_with_its_status_and_its_wait():
    shown = {quoted(row[1])[0]: (int(row[0]), row[2]) for row in rows(guide("errors"))}
    assert shown == {code: (kind.status, str(kind.retry_after_seconds or "")) for code, kind in PROBLEMS.items()}


def test_every_flag_is_shown():
    assert {quoted(row[0])[0] for row in rows(guide("flags"))} == set(FLAGS)


def test_every_bucket_is_shown_with_its_rate():
    text = guide("limits").partition("## Rates")[2].partition("\n## ")[0]
    assert {quoted(row[0])[0]: quoted(row[1])[0] for row in rows(text)} == RATE_SETTINGS


def options_of(command: BaseCommand) -> set[str]:
    """Its options; where it has words for what it does, those, and their options."""
    found: set[str] = set()
    for action in command.create_parser("manage.py", "")._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
            found.update(
                o for parser in action.choices.values() for each in parser._actions for o in each.option_strings
            )
    return found - {"-h", "--help"}


def test_every_management_command_is_shown_with_its_options_and_no_other():
    files = (ROOT / "memory/management/commands").glob("[a-z]*.py")
    shown = {quoted(row[0])[0]: set(quoted(row[1])) for row in rows(guide("commands")) if len(row) == 4}
    assert shown.pop("migrate") == {"--database owner"}
    commands = {file.stem: load_command_class("memory", file.stem) for file in files}
    djangos = options_of(BaseCommand())
    assert shown == {name: options_of(command) - djangos for name, command in commands.items()}


def test_every_make_target_is_shown_and_no_other():
    shown = [quoted(row[0])[0] for row in rows(guide("commands")) if len(row) == 2]
    assert sorted(shown) == sorted(f"make {target}" for target in make_targets())


def test_the_log_settings_for_a_server_of_ones_own_are_the_embedded_servers():
    source = (ROOT / "r1site/embedded/tuning.py").read_text()
    named = re.findall(r"`(log_\w+) = ([\w-]+)`", guide("serving"))
    assert len(named) == 5
    for name, value in named:
        assert f'"{name}": "{value}"' in source


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=lambda page: page.stem)
def test_a_page_says_whom_it_is_for_and_is_no_book(page):
    title, blank, first, *_ = lines = page.read_text().splitlines()
    assert title.startswith("# ") and not blank
    assert first.startswith(tuple(f"For {reader}" for reader in READERS_OF_THE_GUIDE))
    assert len(lines) <= 200
