"""manage.py canary: a run's stages and its ends, on the real table of runs, against a made-up service over HTTP."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from django.db import IntegrityError, OperationalError, connections

from memory.maintenance.advisory_lock import running_alone
from memory.management.commands.canary import ADVISORY_LOCK
from memory.rollout import flags, rollouts, traffic
from memory.rollout.checklist import Reach, checklist, missing
from memory.rollout.plan import Plan
from memory.rollout.proxy import NoSplit, set_proxy_percent
from memory.rollout.start import make_run, rollout_to_run
from memory.rollout.tripwires import Probe, Tripwires
from tests.canary_service import CanaryService
from tests.db.server import connect

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "maint"])

PLAN = Plan(stages=((5, 120.0), (50, 90.0), (100, 70.0)), check_seconds=60.0, window_seconds=50.0)
SPLIT = "split_clients $user $upstream {\n    5%  canary;\n    *   stable;\n}\n"


class Hours:
    """A clock that goes by being waited for; `at` is what happens when it is so late, once."""

    def __init__(self):
        self.began = self.now = time.time()
        self.at: dict[float, object] = {}

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for due in [due for due in self.at if self.now - self.began >= due]:
            self.at.pop(due)()


@pytest.fixture(autouse=True)
def _no_runs(superuser):
    superuser.execute("DELETE FROM memory_rollouts")
    yield
    superuser.execute("DELETE FROM memory_rollouts")
    flags.set_flag(traffic.FLAG, None, actor="a test")
    flags.forget_flags()


@pytest.fixture
def percent():
    """The flag's row, read past everything that remembers it, and past the connection under test."""
    lock = threading.Lock()
    with connect("r1_maint") as maint:

        def read() -> int:
            with lock:
                row = maint.execute("SELECT value FROM memory_flags WHERE name = %s", [traffic.FLAG]).fetchone()
            return 100 if row is None else int(row[0])

        yield read


@pytest.fixture
def service(percent):
    with CanaryService(percent) as running:
        yield running


@pytest.fixture
def reach(service, tmp_path) -> Reach:
    tokens = tmp_path / "tokens"
    tokens.write_text("# test users\n" + "".join(f"token-{number}\n" for number in range(5)))
    proxy = tmp_path / "split.conf"
    proxy.write_text(SPLIT)
    return Reach(
        service.url, alertmanager=service.url, proxy_config=str(proxy), tokens_file=str(tokens),
        metrics=f"{service.url}/metrics/memory",
    )  # fmt: skip


@contextmanager
def a_run(reach: Reach, folder: Path, clock: Hours, plan: Plan = PLAN):
    with running_alone(ADVISORY_LOCK):
        rollout, _ = rollout_to_run(plan, folder, "")
        yield make_run(rollout, plan, reach, lambda sentence: None, clock=clock)[0]


def run(reach: Reach, folder: Path, clock: Hours | None = None, plan: Plan = PLAN):
    with a_run(reach, folder, clock or Hours(), plan) as canary:
        return canary.run()


def events(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def document(folder: Path, name: str):
    return json.loads((folder / name).read_text())


def test_a_clean_run_goes_through_all_stages_and_is_promoted(service, reach, tmp_path, percent):
    folder = tmp_path / "evidence"
    ending = run(reach, folder)
    assert (ending.verdict, ending.percent, percent()) == ("promoted", 100, 100)
    assert [event["percent"] for event in events(folder, "stage")] == [5, 50, 100]
    assert {check["state"] for check in events(folder, "check")[1:]} == {"ok"}
    latest = rollouts.latest_rollout()
    assert (latest.state, latest.verdict, latest.percent) == ("ended", "promoted", 100)
    assert document(folder, "decision.json")["verdict"] == "promoted"
    assert [(change["before"], change["after"]) for change in document(folder, "flags.json")] == [
        (100, 5),
        (5, 50),
        (50, 100),
    ]
    assert service.alerts == [] and document(folder, "alerts.json") == []
    assert "+    50%  canary;" in (folder / "proxy.diff").read_text()
    load = [json.loads(line) for line in (folder / "load.jsonl").read_text().splitlines()]
    assert len(load) == 300 and {line["user"] for line in load} == {1, 2, 3, 4, 5}
    shot = document(folder, "snapshots/T+02m.json")
    assert shot["percent"] == 5 and shot["signals"]["query_error_rate"]["r1"]["value"] == 0
    assert document(folder, "dashboard.json")["panels"]
    assert all(not texts for texts in service.texts.values()), "the tripwires' documents are gone"


@pytest.mark.parametrize(
    ("fault", "reason", "within_seconds"),
    [
        ("errors", "query_error_rate of r1 is 5 %", 60),
        ("slow", "query_p95_ms of r1", 60),
        ("denied", "rls_denied counted 1", 5),
        ("leak", "tripwire user saw by", 60),
        ("deaf", "metrics could not be read for", 30),
    ],
)
def test_a_fault_rolls_the_run_back_in_time(service, reach, tmp_path, fault, reason, within_seconds, percent):
    clock, folder = Hours(), tmp_path / "evidence"
    clock.at[140.0] = lambda: setattr(service, "fault", fault)
    ending = run(reach, folder, clock)
    assert (ending.verdict, percent()) == ("rolled_back", 0)
    assert any(reason in each for each in ending.reasons), ending.reasons
    decided = events(folder, "decision")[0]["at"] - clock.began - 140
    assert decided <= within_seconds
    assert document(folder, "decision.json")["stage"] == 50
    assert [alert["labels"]["alertname"] for alert in service.alerts] == ["R1CanaryRolledBack"]
    assert document(folder, "alerts.json")[0]["sent"]
    assert "    # 0%  canary;" in Path(reach.proxy_config).read_text()
    assert rollouts.latest_rollout().verdict == "rolled_back"
    if fault in ("errors", "slow"):
        assert ending.seconds_to_baseline is not None


def test_after_a_rollback_the_next_run_waits_a_day_unless_a_reason_is_given(superuser, service, reach, tmp_path):
    clock = Hours()
    clock.at[20.0] = lambda: setattr(service, "fault", "denied")
    assert run(reach, tmp_path / "evidence", clock).verdict == "rolled_back"
    arguments = ["run", "--endpoint", service.url, "--tokens-file", reach.tokens_file, "--stage-seconds", "600"]
    arguments += ["--evidence", str(tmp_path / "next")]
    with pytest.raises(CommandError, match="rolled back less than 24 h ago") as refused:
        canary(*arguments)
    assert refused.value.returncode == 1 and not (tmp_path / "next").exists()
    assert canary(*arguments, "--dry-run", code=1)["against"]
    superuser.execute("UPDATE memory_rollouts SET ended = ended - interval '24 hours'")
    assert canary(*arguments, "--dry-run")["against"] == []


def test_a_stage_without_enough_requests_is_held_and_the_next_run_goes_on_at_it(
    service, reach, tmp_path, monkeypatch, percent
):
    monkeypatch.setattr("tests.canary_service.TRAFFIC", 2)
    ending = run(reach, tmp_path / "first")
    assert (ending.verdict, ending.percent, percent()) == ("held", 5, 5)
    assert "n = " in str(ending.reasons)
    monkeypatch.undo()
    assert run(reach, tmp_path / "second").verdict == "promoted"


def test_a_held_stage_is_where_the_next_run_begins(service, reach, tmp_path):
    rollouts.end(rollouts.begin(50, "nowhere").id, "held", [], 50)
    run(reach, tmp_path / "second")
    assert [event["percent"] for event in events(tmp_path / "second", "stage")] == [50, 100]


def test_two_runs_at_once_are_refused_by_the_database():
    rollouts.begin(5, "here")
    with pytest.raises(IntegrityError):
        rollouts.begin(5, "there")


@pytest.mark.parametrize(("request_", "verdict", "left"), [("abort", "aborted", 0), ("promote", "promoted", 100)])
def test_a_run_at_work_does_what_a_person_asks_for(reach, tmp_path, request_, verdict, left, percent):
    clock, folder = Hours(), tmp_path / "evidence"
    with a_run(reach, folder, clock) as canary_run:
        clock.at[50.0] = lambda: rollouts.ask(canary_run.rollout.id, request_)
        ending = canary_run.run()
    assert (ending.verdict, percent()) == (verdict, left)


def test_a_lost_database_takes_traffic_away_once_it_is_back(service, reach, tmp_path, monkeypatch, percent):
    clock, folder, real = Hours(), tmp_path / "evidence", flags.Flag.objects.using
    refused = []

    def away(alias):
        if len(refused) < 5 and clock.now - clock.began > 100:
            refused.append(alias)
            connections["maint"].close()
            raise OperationalError("the server is away")
        return real(alias)

    def lose(*args):
        if clock.now - clock.began > 100:
            raise OperationalError("the server is away")
        return look(*args)

    look = rollouts.rollout_of
    monkeypatch.setattr(rollouts, "rollout_of", lose)
    monkeypatch.setattr(flags.Flag.objects, "using", away)
    ending = run(reach, folder, clock)
    assert (ending.verdict, ending.is_done, percent()) == ("rolled_back", True, 0)
    assert "the database failed" in ending.reasons[0] and len(refused) == 5


def test_a_database_that_stays_away_is_said_and_the_proxy_has_none_left(service, reach, tmp_path, monkeypatch):
    said, clock = [], Hours()
    with running_alone(ADVISORY_LOCK):
        rollout, _ = rollout_to_run(PLAN, tmp_path / "evidence", "")
        canary_run, _ = make_run(rollout, PLAN, reach, said.append, clock=clock)

        def lose(*args):
            raise OperationalError("the server is away")

        monkeypatch.setattr(rollouts, "rollout_of", lose)
        monkeypatch.setattr(rollouts, "end", lose)
        ending = canary_run.run()
    assert not ending.is_done
    assert any("COULD NOT BE WRITTEN" in sentence for sentence in said)
    assert "    # 0%  canary;" in Path(reach.proxy_config).read_text()
    assert document(tmp_path / "evidence", "decision.json")["verdict"] == "rolled_back"


def test_a_run_that_fails_by_itself_leaves_nobody_with_the_new_variant(reach, tmp_path, percent):
    clock = Hours()
    clock.at[30.0] = lambda: {}["a mistake of ours"]
    with pytest.raises(KeyError):
        run(reach, tmp_path / "evidence", clock)
    assert percent() == 0 and rollouts.latest_rollout().reasons == ("the run itself failed (KeyError)",)


def test_the_service_may_not_see_the_table_of_runs():
    with pytest.raises(Exception, match="permission denied"), connections["default"].cursor() as cursor:
        cursor.execute("SELECT * FROM memory_rollouts")


# -- The tripwires


@pytest.mark.parametrize(("way", "said"), [("query", "a query"), ("documents", "its id"), ("export", "an export")])
def test_a_tripwire_is_hit_by_each_way_to_what_the_other_stored(service, way, said):
    tripwires = Tripwires(service.url, ("one", "two"))
    assert tripwires.plant() == Probe() == tripwires.probe()
    service.fault = f"leak {way}"
    probe = tripwires.probe()
    assert probe.hits == [
        f"the {other} tripwire user saw by {said} what the {owner} one stored"
        for owner, other in (("first", "second"), ("second", "first"))
    ]


def test_tripwires_whose_documents_are_not_there_prove_nothing_and_say_so(service):
    probe = Tripwires(service.url, ("one", "two")).probe()
    assert probe.hits == [] and len(probe.failures) == 2


# -- The command


def canary(*arguments: str, code: int = 0) -> dict:
    out = io.StringIO()
    try:
        call_command("canary", *arguments, stdout=out, stderr=io.StringIO())
        ended = 0
    except SystemExit as exc:
        ended = exc.code
    assert ended == code, out.getvalue()
    return json.loads(out.getvalue())


def test_everything_that_is_missing_is_said_at_once(service, tmp_path):
    (tmp_path / "tokens").write_text("one\ntwo\n")
    with pytest.raises(CommandError) as refused:
        canary("run", "--tokens-file", str(tmp_path / "tokens"), "--proxy-config", str(tmp_path / "none"))
    said = str(refused.value)
    assert refused.value.returncode == 2
    for lacking in ("service: not given", "users: 2 different users, and 5 are needed", "proxy: ", "cannot be read"):
        assert lacking in said


def test_if_ready_begins_nothing_while_something_is_missing(service, reach):
    said = canary("run", "--endpoint", service.url, "--tokens-file", reach.tokens_file, "--if-ready")
    assert said["started"] is False and rollouts.latest_rollout() is None
    assert said["missing"] == ["proxy: not given", "prometheus: not given", "alertmanager: not given"]
    assert [item["state"] for item in said["checklist"]][:3] == ["ready"] * 3


def test_a_checklist_with_everything_in_reach_misses_nothing(service, reach):
    assert missing(checklist(reach), everything=False) == []


def test_times_that_make_no_sense_are_refused(service, reach):
    for wrong in (
        ["--stage-seconds", "1,2"],
        ["--stage-seconds", "no"],
        ["--time-scale", "0"],
        ["--check-seconds", "nan"],
    ):
        with pytest.raises(CommandError) as refused:
            canary("run", *wrong)
        assert refused.value.returncode == 2


def test_status_before_any_run_and_an_abort_and_a_promotion_without_a_process(percent):
    assert canary("status")["rollout"] is None
    rollouts.begin(50, "nowhere")
    assert canary("status")["rollout"]["state"] == "running"
    assert canary("abort")["MEMORY_CANARY_PCT"] == 0
    assert canary("status")["rollout"]["verdict"] == "aborted" and percent() == 0
    rollouts.begin(50, "nowhere")
    assert canary("promote", "--force", "it was watched by hand")["MEMORY_CANARY_PCT"] == 100
    assert canary("status")["rollout"]["reasons"] == ["it was watched by hand"] and percent() == 100


def test_a_killed_run_goes_on_and_a_signal_to_stop_takes_traffic_away(service, reach, tmp_path, percent):
    folder = tmp_path / "evidence"
    command = [
        sys.executable, "manage.py", "canary", "run", "--endpoint", service.url, "--tokens-file", reach.tokens_file,
        "--evidence", str(folder), "--stage-seconds", "1200", "--window-seconds", "20", "--check-seconds", "0.5",
    ]  # fmt: skip

    def started() -> subprocess.Popen:
        return subprocess.Popen(
            command, cwd=django_settings.BASE_DIR, env=os.environ | {"DJANGO_SETTINGS_MODULE": "r1site.settings.test"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def until(checks: int, process: subprocess.Popen) -> None:
        patience = time.monotonic() + 60
        while not (folder / "events.jsonl").exists() or len(events(folder, "check")) < checks:
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.05)

    process = started()
    until(1, process)
    process.kill()
    process.wait()
    assert percent() == 5 and rollouts.latest_rollout().state == "running"
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"at": 1, "ki')
    seen = (folder / "events.jsonl").read_text().count('"check"')
    process = started()
    patience = time.monotonic() + 60
    while (folder / "events.jsonl").read_text().count('"check"') <= seen:
        assert process.poll() is None and time.monotonic() < patience
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, err
    assert json.loads(out)["interrupted"] is True
    assert percent() == 0 and rollouts.latest_rollout().verdict == "aborted"
    assert document(folder, "decision.json")["reasons"] == ["the run was told to stop"]


def test_a_run_whose_process_died_is_ended_by_hand_with_its_evidence_and_the_proxys_file(reach, tmp_path, percent):
    folder, clock = tmp_path / "evidence", Hours()

    class Killed(BaseException):
        pass

    def die():
        raise Killed

    clock.at[30.0] = die
    with pytest.raises(Killed):
        run(reach, folder, clock)
    assert percent() == 5 and not (folder / "decision.json").exists()
    said = canary("abort", "--reason", "its machine is gone", "--proxy-config", reach.proxy_config)
    assert said["run_told"] is False and percent() == 0
    assert document(folder, "decision.json")["reasons"] == ["its machine is gone"]
    assert "    # 0%  canary;" in Path(reach.proxy_config).read_text()
    before = (folder / "decision.json").read_text()
    canary("abort")
    assert (folder / "decision.json").read_text() == before


# -- The proxy's file


def test_the_proxys_percentage_is_changed_and_nothing_else(tmp_path):
    path = tmp_path / "split.conf"
    path.write_text("# 7%  nothing;\n" + SPLIT)
    for wanted, line in ((50, "    50%  canary;\n"), (0, "    # 0%  canary;\n"), (5, "    5%  canary;\n")):
        assert "canary;" in set_proxy_percent(path, wanted)
        assert path.read_text() == "# 7%  nothing;\n" + SPLIT.replace("    5%  canary;\n", line)
    assert set_proxy_percent(path, 5) == ""
    path.write_text("upstream canary {}\n")
    with pytest.raises(NoSplit, match="no split_clients"):
        set_proxy_percent(path, 5)
