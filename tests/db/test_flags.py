"""Flags: a row wins over the environment, on every worker, and a broken one changes nothing."""

import json
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections

from memory.retrieval.reranker_config import deployed_config
from memory.rollout import flags
from reranker import Reranker

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])


@pytest.fixture(autouse=True)
def _no_flags():
    yield
    for name in flags.FLAGS:
        flags.set_flag(name, None, actor="a test")
    flags.forget_flags()


def test_a_flag_without_a_row_is_the_setting(settings):
    flags.forget_flags()
    settings.RERANK_CIRCUIT_MS = 123
    assert flags.flag("RERANK_CIRCUIT_MS") == 123


def test_a_row_wins_and_clearing_it_gives_the_setting_back(settings):
    settings.RERANK_ENABLED = True
    for command, expected in ((["set", "RERANK_ENABLED", "false"], False), (["clear", "RERANK_ENABLED"], True)):
        out = StringIO()
        call_command("flags", *command, stdout=out)
        assert json.loads(out.getvalue()) == {"RERANK_ENABLED": expected}
        flags.forget_flags()
        assert flags.flag("RERANK_ENABLED") is expected


def test_a_reranker_with_this_deployments_settings_asks_the_flag_itself(settings):
    settings.RERANK_BACKEND, settings.RERANK_ENABLED = "none", True
    deployed = Reranker(deployed_config())
    for value, skipped in ((None, "no_backend"), (False, "disabled")):
        flags.set_flag("RERANK_ENABLED", value, actor="a test")
        flags.forget_flags()
        assert deployed.maybe_rerank("query", ["a text"]).skipped == skipped


@pytest.mark.parametrize(
    ("name", "value"),
    [("RERANK_ENABLED", "maybe"), ("RERANK_CIRCUIT_MS", "0"), ("RERANK_POOL", "true"), ("RERANK_BACKEND", "magic")],
)
def test_a_value_a_flag_may_not_have_is_refused(name, value):
    with pytest.raises(CommandError):
        call_command("flags", "set", name, value)


def test_a_row_that_makes_no_sense_is_passed_over(settings):
    with connections["maint"].cursor() as cursor:
        cursor.execute("INSERT INTO memory_flags (name, value) VALUES ('RERANK_POOL', '\"many\"')")
    flags.forget_flags()
    assert flags.flag("RERANK_POOL") == settings.RERANK_POOL


def test_a_row_of_a_backend_that_went_is_passed_over_and_said_once(settings, caplog):
    settings.RERANK_BACKEND = "none"
    with connections["maint"].cursor() as cursor:
        cursor.execute("INSERT INTO memory_flags (name, value) VALUES ('RERANK_BACKEND', '\"late_interaction\"')")
    deployed = Reranker(deployed_config())
    for _ in range(3):
        flags.forget_flags()
        backend = flags.flag("RERANK_BACKEND")
        assert deployed.maybe_rerank("query", ["a text"], enabled=True, backend=backend).skipped == "no_backend"
    said = "the stored value of RERANK_BACKEND is not one of auto, cross_encoder, none; the setting stands"
    assert [record.getMessage() for record in caplog.records if record.name == flags.logger.name] == [said]

    flags.set_flag("RERANK_BACKEND", None, actor="a test")
    flags.forget_flags()
    assert flags.flag("RERANK_BACKEND") == "none"


def test_the_service_cannot_write_flags():
    with pytest.raises(DatabaseError), connections["default"].cursor() as cursor:
        cursor.execute("INSERT INTO memory_flags (name, value) VALUES ('RERANK_POOL', '1')")


def test_flags_are_not_read_again_within_the_half_second(django_assert_num_queries):
    flags.forget_flags()
    with django_assert_num_queries(1):
        for _ in range(50):
            flags.flag("RERANK_ENABLED")
