"""manage.py rotate_keys: a master key added, promoted, everything wrapped anew, verified, the old one retired.

And the runbooks on keys, walked: each command that they give, in their order.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import threading
from pathlib import Path

import pytest
from django.core.management import CommandError
from django.db import connections
from psycopg.errors import ObjectNotInPrerequisiteState

from memory.erasure import key_remains
from memory.errors import KeyUnavailable
from memory.keys.secret_files import SettingError
from memory.maintenance import data_keys, master_keys
from memory.maintenance.key_status import status_table
from memory.rls import tenant_transaction
from memory.sealing import rewrap as rewrapping
from memory.sealing.apart import connect_apart
from memory.sealing.generations import add_generation
from memory.sealing.keyring import forget_profiles
from memory.sealing.profile import read_profile
from memory.sealing.promotion import forget_promoted, require_promoted_key
from memory.sealing.worker_reports import LIVE_SECONDS, Reporter
from tests.commands.rotation import clear, killed_at, rotate, started, under
from tests.db.memories import remember
from tests.db.scratch import scratch_database
from tests.db.server import bind
from tests.people import Person
from tests.security.master_keys import hold

pytestmark = pytest.mark.django_db(transaction=True, databases="__all__")

OLD, NEW, OTHER = (os.urandom(32) for _ in range(3))
ADD_KEY = (
    "INSERT INTO memory_data_keys (user_hash, generation, key_id, sealed_key)"
    " VALUES (%s, 7, %s, decode(repeat('00', 60), 'hex'))"
)
RUNBOOKS = Path(__file__).resolve().parents[2] / "deploy/runbooks"


@pytest.fixture(scope="module")
def scratch(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock(), scratch_database("rotation") as made:
        made.migrate()
        yield made


@pytest.fixture
def house(scratch, monkeypatch):
    """Four users with two keys each, all under k1; this process is no worker and holds k1 alone."""
    monkeypatch.setattr(master_keys, "SETTLE_SECONDS", 0.0)
    hold(monkeypatch, k1=OLD)
    with scratch.as_alias("default", "maint", "owner", "backup"):
        people = [Person.new(f"person{number}") for number in range(4)]
        for person in people:
            remember(person, "note")
        yield people
        with scratch.connect() as superuser:
            clear(superuser)
    forget_profiles()
    forget_promoted()


@pytest.fixture
def worker(house):
    """A worker that says what this process holds whenever it is called."""
    reporter = Reporter()
    with connect_apart() as connection:

        def say() -> None:
            reporter.say(connection)

        yield say
    reporter.end()


def text_of(person: Person) -> str:
    forget_profiles()
    return person.get("memory/documents/note").json().get("text", "")


def all_readable(people) -> bool:
    return all(text_of(person) == f"What {person.user_id} keeps under note." for person in people)


def refusal(*arguments: str) -> str:
    with pytest.raises(CommandError) as raised:
        rotate(*arguments)
    assert raised.value.returncode == 1
    return str(raised.value)


def test_the_old_keys_bytes_may_go_after_the_last_step_and_everything_is_readable(house, scratch, monkeypatch, worker):
    hold(monkeypatch, k1=OLD, k2=NEW)
    worker()
    assert rotate("--promote", "k2") == ({"promoted": "k2", "dry_run": False, "live_workers": 1}, 0)
    worker()
    assert under(scratch) == {"k1": 8}
    late = Person.new("late")
    remember(late, "note")
    assert under(scratch, late) == {"k2": 2}, "what is new is under the promoted key"
    assert rotate("--rewrap", "--dry-run")[0]["left"] == 8
    said, code = rotate("--rewrap")
    assert (said["done"], said["left"], said["lost"], code) == (8, 0, 0, 0)
    said, code = rotate("--verify")
    assert (said["done"], said["elsewhere"], said["damaged"], said["unavailable"], code) == (10, 0, 0, 0, 0)
    assert rotate("--retire", "k1", "--without-backups")[0]["bytes_may_go"]
    hold(monkeypatch, k2=NEW)
    assert all_readable([*house, late])
    assert rotate("--verify")[1] == 0


def test_a_promotion_waits_for_the_worker_that_lacks_the_key(house, scratch, monkeypatch, worker):
    worker()
    hold(monkeypatch, k1=OLD, k2=NEW)
    assert "lack the master key k2" in refusal("--promote", "k2")
    remember(house[0], "more")
    remember(late := Person.new("late"), "note")
    assert under(scratch, late) == {"k1": 2}, "and nothing wraps under it"
    hold(monkeypatch, k1=OLD, k2=OTHER)
    worker()
    hold(monkeypatch, k1=OLD, k2=NEW)
    assert "lack the master key k2" in refusal("--promote", "k2"), "another key under the same id"
    with scratch.connect() as superuser:
        superuser.execute("UPDATE memory_workers SET seen_at = now() - make_interval(secs => %s)", [LIVE_SECONDS + 1])
    assert rotate("--promote", "k2")[0]["live_workers"] == 0, "a dead worker is not waited for"


def test_a_key_that_is_not_here_or_was_retired_is_not_promoted(house, monkeypatch):
    assert "no key k2 here" in refusal("--promote", "k2")
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    rotate("--rewrap")
    rotate("--retire", "k1", "--without-backups")
    assert "k1 was retired" in refusal("--promote", "k1")


def test_a_worker_that_lacks_the_promoted_key_does_not_start_and_wraps_nothing(house, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    for keys in ({"k1": OLD}, {"k1": OLD, "k2": OTHER}):
        hold(monkeypatch, **keys)
        with pytest.raises(SettingError):
            require_promoted_key()
        with pytest.raises(KeyUnavailable):
            remember(Person.new("unlucky"), "note")
    hold(monkeypatch, k2=NEW)
    require_promoted_key()


def test_a_retired_key_wraps_nothing_though_the_settings_name_it(house, scratch, monkeypatch):
    """As where a key server has wrapped for a while, and the settings of before are put back."""
    with scratch.connect() as superuser:
        superuser.execute("INSERT INTO memory_master_keys (key_id, retired_at) VALUES ('k1', now())")
    hold(monkeypatch, k1=OLD)
    with pytest.raises(SettingError, match="k1, which was retired"):
        require_promoted_key()
    with pytest.raises(KeyUnavailable):
        remember(Person.new("unlucky"), "note")
    refusal("--rewrap")
    assert all_readable(house), "it opens what it has wrapped"
    hold(monkeypatch, k2=NEW, k1=OLD)
    require_promoted_key()
    remember(Person.new("lucky"), "note")


def test_steps_that_asked_no_worker_say_so(house, monkeypatch, worker):
    hold(monkeypatch, k1=OLD, k2=NEW, k3=OTHER)
    assert "older release" in rotate("--promote", "k2")[0]["warning"]
    rotate("--rewrap")
    assert "older release" in rotate("--retire", "k1", "--without-backups")[0]["warning"]
    worker()
    assert "warning" not in rotate("--promote", "k3")[0]


def test_a_rewrap_that_was_killed_is_gone_on_with(house, scratch, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    last = max(person.user_hash for person in house)
    with killed_at(scratch, "SELECT 1 FROM memory_search_keys WHERE user_hash = %s FOR UPDATE", [last], "--rewrap"):
        assert under(scratch) == {"k1": 2, "k2": 6}
    assert all_readable(house)
    process = started(scratch, "--rewrap")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["done"], under(scratch)) == (0, 2, {"k2": 8}), err
    hold(monkeypatch, k2=NEW)
    assert all_readable(house)


def test_a_rewrap_whose_key_goes_away_says_how_far_it_came_and_is_gone_on_with(house, scratch, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    wrap_key, wrapped = rewrapping.wrap_key, []

    def wrap_four(key, context):
        if len(wrapped) == 4:
            raise KeyUnavailable()
        wrapped.append(context)
        return wrap_key(key, context)

    monkeypatch.setattr(rewrapping, "wrap_key", wrap_four)
    said, code = rotate("--rewrap")
    assert (said["done"], said["left"], said["key_unavailable"], code) == (4, 4, True, 4)
    monkeypatch.setattr(rewrapping, "wrap_key", wrap_key)
    said, code = rotate("--rewrap")
    assert (said["done"], code, under(scratch)) == (4, 0, {"k2": 8})


def test_a_key_that_does_not_open_is_a_finding_and_no_reason_to_rewrap_again(house, scratch, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    with scratch.connect() as superuser:
        superuser.execute(
            "UPDATE memory_search_keys SET sealed_key = set_byte(sealed_key, 20, get_byte(sealed_key, 20) # 1)"
            " WHERE user_hash = %s",
            [house[0].user_hash],
        )
        for done in (7, 0):
            said, code = rotate("--rewrap")
            assert (said["done"], said["left"], said["damaged"], code) == (done, 1, 1, 1)
        superuser.execute("UPDATE memory_master_keys SET promoted_at = now() - interval '2 days' WHERE key_id = 'k2'")
    said, code = rotate("--status")
    assert (code, [finding for finding in said["findings"] if "k1" in finding]) == (
        1, ["1 keys are under master key k1 still, which wraps no new ones: rotate_keys --rewrap"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["--promote", ""], ["--retire", " "], ["--rewrap", "--without-backups"], ["--verify", "--dry-run"],
        ["--status", "--dry-run"], ["--rewrap", "--user", "anna"], ["--verify", "--clear"], ["--rewrap", "--new-run"],
        ["--data", "--clear", "--new-run"], ["--data", "--user", "anna", "--new-run"], ["--data", "--table"],
        ["--retire", "k1", "--rate", "1"],
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_anything_is_done(arguments):
    with pytest.raises(CommandError) as raised:
        rotate(*arguments)
    assert raised.value.returncode == 2


def test_a_user_who_is_erased_meanwhile_stays_erased_and_a_key_replaced_meanwhile_stays_replaced(
    house, scratch, monkeypatch
):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    erased, other, *_ = house
    wrap_key = rewrapping.wrap_key

    def erase_and_wrap(key, context):
        monkeypatch.setattr(rewrapping, "wrap_key", wrap_key)
        assert erased.post("memory/erase", {"confirm": erased.user_id}).status_code == 200
        return wrap_key(key, context)

    counted = rewrapping.KeyCount()
    monkeypatch.setattr(rewrapping, "wrap_key", erase_and_wrap)
    rewrapping.rewrap_keys(erased.user_hash, "k2", counted)
    assert (counted.done, counted.lost, under(scratch, erased)) == (0, 2, {})

    def replace_and_wrap(key, context):
        monkeypatch.setattr(rewrapping, "wrap_key", wrap_key)
        rewrapping.rewrap_keys(other.user_hash, "k2", rewrapping.KeyCount())
        return wrap_key(key, context)

    counted = rewrapping.KeyCount()
    monkeypatch.setattr(rewrapping, "wrap_key", replace_and_wrap)
    rewrapping.rewrap_keys(other.user_hash, "k2", counted)
    assert (counted.done, counted.lost, under(scratch, other)) == (0, 2, {"k2": 2})
    assert all_readable(house[1:])


def test_a_key_is_not_retired_while_it_wraps_anything_or_a_backup_may_need_it(house, scratch, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    assert "k1 wraps new keys" in refusal("--retire", "k1", "--without-backups")
    rotate("--promote", "k2")
    assert "8 keys are wrapped under k1" in refusal("--retire", "k1", "--without-backups")
    rotate("--rewrap")
    assert "backups of the keys" in refusal("--retire", "k1")
    with scratch.connect() as superuser:
        superuser.execute("UPDATE memory_master_keys SET unused_since = unused_since - interval '31 days'")
    assert rotate("--retire", "k1", "--dry-run")[0]["bytes_may_go"] is False
    assert rotate("--retire", "k1")[0]["bytes_may_go"]
    assert "no key k7 is known" in refusal("--retire", "k7")


def test_a_key_that_is_being_written_under_the_old_master_key_is_waited_for_and_found(house, scratch, monkeypatch):
    """Its transaction began before the retirement and commits while that waits."""
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    rotate("--rewrap")
    monkeypatch.setattr(master_keys, "LOCK_MS", 50)
    counted = master_keys._require_unused
    with scratch.connect("r1_app") as writer:

        def write_and_count(connection, key_id):
            monkeypatch.setattr(master_keys, "_require_unused", counted)
            counted(connection, key_id)
            bind(writer, house[0].user_hash, local=False)
            writer.execute("BEGIN")
            writer.execute(ADD_KEY, [house[0].user_hash, "k1"])
            threading.Timer(0.3, writer.execute, ["COMMIT"]).start()

        monkeypatch.setattr(master_keys, "_require_unused", write_and_count)
        assert "1 keys are wrapped under k1" in refusal("--retire", "k1", "--without-backups")
    with scratch.connect() as superuser:
        retired = superuser.execute("SELECT retired_at FROM memory_master_keys WHERE key_id = 'k1'").fetchone()
    assert retired == (None,)


def test_the_database_takes_no_key_under_a_retired_master_key(house, scratch, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    rotate("--rewrap")
    rotate("--retire", "k1", "--without-backups")
    put = "UPDATE {} SET key_id = 'k1' WHERE user_hash = %s"
    with scratch.connect("r1_app") as writer, scratch.connect("r1_maint") as maint:
        bind(writer, house[0].user_hash, local=False)
        for statement, params in (
            (ADD_KEY, [house[0].user_hash, "k1"]),
            (put.format("memory_data_keys"), [house[0].user_hash]),
            (put.format("memory_search_keys"), [house[0].user_hash]),
        ):
            for connection in (writer, maint):
                with pytest.raises(ObjectNotInPrerequisiteState, match="was retired"):
                    connection.execute(statement, params)
        writer.execute(ADD_KEY, [house[0].user_hash, "k2"])


def test_a_key_whose_last_use_is_not_known_is_not_retired(house, scratch, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    rotate("--rewrap")
    monkeypatch.setattr(master_keys, "_note_use", lambda *_: None)
    with scratch.connect() as superuser:
        superuser.execute("UPDATE memory_master_keys SET unused_since = NULL WHERE key_id = 'k1'")
    assert "k1 wrapped keys a moment ago" in refusal("--retire", "k1")


def test_a_key_does_not_retire_while_a_worker_wraps_under_it(house, monkeypatch, worker):
    worker()
    hold(monkeypatch, k1=OLD, k2=NEW, active="k2")
    assert "lack the master key k2" in refusal("--rewrap")
    hold(monkeypatch, k1=OLD, k2=NEW)
    worker()
    hold(monkeypatch, k1=OLD, k2=NEW, active="k2")
    assert "wrap under k1" in refusal("--rewrap")


def test_nothing_moves_away_from_a_key_server_while_a_worker_has_it_wrap(house, scratch, monkeypatch, settings, worker):
    with scratch.connect() as superuser:
        superuser.execute("INSERT INTO memory_master_keys (key_id, unused_since) VALUES ('transit:r1-memory:1', now())")
    settings.MEMORY_KEY_PROVIDER = "transit"
    worker()
    settings.MEMORY_KEY_PROVIDER = "local"
    for step in (["--rewrap"], ["--retire", "transit:r1-memory:1", "--without-backups"]):
        assert "wrap under transit:r1-memory, and this command under k1" in refusal(*step)
    worker()
    assert rotate("--retire", "transit:r1-memory:1", "--without-backups")[1] == 0


def test_an_old_backups_wrapped_keys_do_not_open_once_the_old_key_is_gone(house, scratch, monkeypatch):
    person, other, *_ = house
    with scratch.connect() as superuser:
        kept = superuser.execute("SELECT generation, key_id, sealed_key FROM memory_data_keys WHERE user_hash = %s",
                                 [person.user_hash]).fetchone()  # fmt: skip
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    rotate("--rewrap")
    rotate("--retire", "k1", "--without-backups")
    hold(monkeypatch, k2=NEW)
    put = "UPDATE memory_data_keys SET key_id = %s, sealed_key = %s WHERE user_hash = %s"
    with scratch.connect() as superuser:
        # As it was; and as if it were the new key's.
        for key_id, code in ((kept[1], "key_unavailable"), ("k2", "decryption_failed")):
            superuser.execute(put, [key_id, kept[2], person.user_hash])
            forget_profiles()
            response = person.get("memory/documents/note")
            assert (response.status_code >= 500, response.json()["code"]) == (True, code)
        assert rotate("--verify")[1] == 1
    assert all_readable([other])


def test_an_old_backups_rows_and_their_key_together_open_nothing_either(house, scratch, monkeypatch):
    monkeypatch.setattr(data_keys, "APART_SECONDS", 0.0)
    person = house[0]
    with scratch.connect() as superuser:
        keys, chunks = (
            superuser.execute(f"SELECT {columns} FROM {table} WHERE user_hash = %s", [person.user_hash]).fetchone()
            for table, columns in (
                ("memory_data_keys", "generation, key_id, sealed_key"), ("memory_chunks", "generation, text_cipher"),
            )
        )  # fmt: skip
        hold(monkeypatch, k1=OLD, k2=NEW)
        for step in (["--promote", "k2"], ["--rewrap"], ["--data"], ["--retire", "k1", "--without-backups"]):
            assert rotate(*step)[1] == 0
        hold(monkeypatch, k2=NEW)
        superuser.execute("UPDATE memory_chunks SET generation = %s, text_cipher = %s WHERE user_hash = %s",
                          [*chunks, person.user_hash])  # fmt: skip
        for key_id, code in (("k1", "key_unavailable"), ("k2", "decryption_failed")):
            superuser.execute(
                "DELETE FROM memory_data_keys WHERE user_hash = %s AND generation = 1", [person.user_hash]
            )
            superuser.execute("INSERT INTO memory_data_keys (user_hash, generation, key_id, sealed_key)"
                              " VALUES (%s, %s, %s, %s)", [person.user_hash, keys[0], key_id, keys[2]])  # fmt: skip
            forget_profiles()
            response = person.get("memory/documents/note")
            assert response.json()["code"] == code
        said, code = rotate("--data", "--user", person.user_id)
        assert (code, said["skipped"]) == (1, 1), "such a user is left alone, and named as not done"
    assert all_readable(house[1:])


def test_status_says_where_each_key_stands_and_gives_no_key_and_nobody_away(house, scratch, monkeypatch, worker):
    hold(monkeypatch, k1=OLD, k2=NEW)
    worker()
    with tenant_transaction(house[0].user_hash, write=True) as tx:
        add_generation(tx, read_profile(tx))
    said, code = rotate("--status")
    states = {key["key_id"]: (key["state"], key["data_keys"], key["search_keys"]) for key in said["master_keys"]}
    assert states == {"k1": ("active", 5, 4), "k2": ("added", 0, 0)}
    assert (said["wraps"], said["data_keys"]["users"], said["data_keys"]["old_generations"]) == ("k1", 4, 1)
    assert (said["findings"], code, len(said["workers"])) == ([], 0, 1)
    for secret in (OLD, NEW, *(person.user_hash.encode() for person in house)):
        assert secret.hex() not in json.dumps(said) and base64.b64encode(secret).decode() not in json.dumps(said)
    assert not any(person.user_hash in json.dumps(said) or person.user_id in json.dumps(said) for person in house)
    rotate("--promote", "k2")
    with scratch.connect() as superuser:
        superuser.execute("UPDATE memory_master_keys SET promoted_at = now() - interval '91 days'")
    said, code = rotate("--status", "--table")
    assert code == 1 and "master key k2 has wrapped for 91 days, more than 90" in said["findings"]
    table = status_table(said)
    assert re.search(r"^master k1 +old +5 +4 .* 1 of 1 workers$", table, re.MULTILINE), table
    assert "! master key k2 has wrapped for 91 days, more than 90" in table


def test_every_process_forgets_what_it_opened_when_a_key_retires(house, scratch, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    rotate("--rewrap")
    with scratch.connect() as superuser:
        changes = "SELECT slot, changes FROM memory_key_changes"
        before = dict(superuser.execute(changes).fetchall())
        rotate("--retire", "k1", "--without-backups")
        after = dict(superuser.execute(changes).fetchall())
    assert len(after) == 256 and all(after[slot] == before.get(slot, 0) + 1 for slot in after)


@pytest.mark.parametrize(("max_bytes", "is_rewritten"), [(key_remains.REWRITE_MAX_BYTES, True), (0, False)])
def test_small_key_tables_are_rewritten_and_large_ones_keep_nobody_waiting(
    house, scratch, monkeypatch, max_bytes, is_rewritten
):
    """A rewritten table has another file."""
    monkeypatch.setattr(key_remains, "REWRITE_MAX_BYTES", max_bytes)
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    rotate("--rewrap")
    files = "SELECT pg_relation_filenode('memory_data_keys'), pg_relation_filenode('memory_search_keys')"
    with scratch.connect() as superuser:
        before = superuser.execute(files).fetchone()
        assert rotate("--retire", "k1", "--without-backups")[0]["files_rewritten"] is is_rewritten
        after = superuser.execute(files).fetchone()
    assert [new != old for new, old in zip(after, before, strict=True)] == [is_rewritten] * 2


def test_a_rewrite_leaves_its_patience_to_nobody(house):
    with connections["maint"].cursor() as cursor:
        cursor.execute("SHOW lock_timeout")
        before = cursor.fetchone()
        key_remains.rewrite_keys(connections["maint"])
        cursor.execute("SHOW lock_timeout")
        assert cursor.fetchone() == before


def commands_of(runbook: str) -> list[list[str]]:
    """The arguments of each `rotate_keys` in a runbook's blocks, in order."""
    lines = [line.strip() for line in (RUNBOOKS / f"{runbook}.md").read_text().splitlines()]
    return [shlex.split(line)[3:] for line in lines if line.startswith("python manage.py rotate_keys")]


def test_the_runbook_of_a_rotation_leads_from_the_old_key_to_the_new_one(house, scratch, monkeypatch, worker):
    worker()
    walked = []
    for arguments in commands_of("key_rotation"):
        if arguments[0] == "--promote":
            hold(monkeypatch, k1=OLD, k2=NEW)
            worker()
        if arguments[0] == "--rewrap":
            hold(monkeypatch, k1=OLD, k2=NEW, active="k2")
            worker()
        if arguments[0] == "--retire":
            assert "backups" in refusal(*arguments)
            with scratch.connect() as superuser:
                superuser.execute("UPDATE memory_master_keys SET unused_since = unused_since - interval '31 days'")
        if walked[-1:] == ["--retire"]:
            hold(monkeypatch, k2=NEW)
            worker()
        said, code = rotate(*arguments)
        assert code == 0, (arguments, said)
        assert all_readable(house), arguments
        walked.append(arguments[0])
    assert walked == ["--status", "--promote", "--rewrap", "--verify", "--retire", "--status", "--verify"]


def test_the_runbook_of_a_lost_key_finds_it_and_knows_the_copy_that_fits(house, monkeypatch):
    status, verify = commands_of("key_loss")
    hold(monkeypatch, k9=OTHER)
    said, code = rotate(*status)
    assert (code, said["findings"]) == (1, ["master key k1 wraps 8 keys, and nobody here has it"])
    assert house[0].get("memory/documents/note").json()["code"] == "key_unavailable"
    for copy, found in ((None, (0, 8, 0)), (OTHER, (0, 0, 8)), (OLD, (8, 0, 0))):
        hold(monkeypatch, k9=NEW, **({"k1": copy} if copy else {}))
        said, _ = rotate(*verify)
        assert (said["done"], said["unavailable"], said["damaged"]) == found
    assert all_readable(house)


def test_a_user_whose_key_is_lost_for_good_can_erase_his_memory_and_begin_anew(house, scratch, monkeypatch):
    hold(monkeypatch, k1=OLD, k2=NEW)
    rotate("--promote", "k2")
    rotate("--rewrap")
    hold(monkeypatch, k3=OTHER)
    with pytest.raises(SettingError):
        require_promoted_key()
    assert rotate("--promote", "k3")[0]["promoted"] == "k3"
    require_promoted_key()
    person = house[0]
    forget_profiles()
    assert person.get("memory/documents/note").status_code == 503
    assert person.post("memory/erase", {"confirm": person.user_id}).status_code == 200
    remember(person, "note")
    assert (under(scratch, person), all_readable([person])) == ({"k3": 2}, True)


def test_the_runbook_of_a_stolen_key_leaves_nothing_that_it_or_the_old_data_keys_open(
    house, scratch, monkeypatch, worker
):
    monkeypatch.setattr(data_keys, "APART_SECONDS", 0.0)
    walked = []
    for arguments in commands_of("key_compromise"):
        if arguments[0] == "--promote":
            hold(monkeypatch, k1=OLD, k2=NEW)
            worker()
        if walked[-1:] == ["--promote"]:
            worker()
        if walked[-1:] == ["--retire"]:
            hold(monkeypatch, k2=NEW)
            worker()
        arguments = [house[0].user_id if argument == "ID" else argument for argument in arguments]
        assert rotate(*arguments)[1] == 0, arguments
        assert all_readable(house), arguments
        walked.append(arguments[0])
    assert walked == ["--promote", "--rewrap", "--verify", "--retire", *["--data"] * 4, "--rewrap"]
    with scratch.connect() as superuser:
        oldest = superuser.execute("SELECT min(generation) FROM memory_data_keys").fetchone()
    assert (oldest, under(scratch)) == ((2,), {"k2": 8})
