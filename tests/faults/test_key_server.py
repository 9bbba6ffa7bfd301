"""Users' keys wrapped by a real OpenBao server, on the served project: `make test-key-server` brings one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.faults import bao
from tests.faults.bao import KeyServer
from tests.faults.service import Service, running

PATIENCE_SECONDS = 60

pytestmark = pytest.mark.skipif(
    bao.PROGRAM is None, reason="no OpenBao server is at hand: make test-key-server brings one"
)


@pytest.fixture(scope="module")
def key_server(tmp_path_factory) -> Iterator[KeyServer]:
    server = KeyServer(tmp_path_factory.mktemp("bao"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def service(key_server) -> Iterator[Service]:
    # Keys are kept for a second, so that what happens without the server is soon seen.
    with running(
        MEMORY_KEY_PROVIDER="transit", MEMORY_TRANSIT_URL=key_server.url, MEMORY_TRANSIT_TOKEN=key_server.token,
        MEMORY_TRANSIT_SECONDS="0.5", MEMORY_KEY_CACHE_SECONDS="1",
    ) as service:  # fmt: skip
        yield service


def remember(service: Service, user: str, doc_id: str, text: str) -> tuple[int, dict]:
    return service.call("POST", "/api/v1/memory/index", service.token(user), {"doc_id": doc_id, "text": text})


def found(service: Service, token: str) -> tuple[int, list[str] | str]:
    status, answer = service.call("POST", "/api/v1/memory/query", token, {"query": "What was said?"})
    return status, [result["text"] for result in answer["results"]] if status == 200 else answer["code"]


def until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def wrapped_by(service: Service) -> set[str]:
    with service.superuser() as connection:
        rows = connection.execute("SELECT key_id FROM memory_data_keys UNION SELECT key_id FROM memory_search_keys")
        return {key_id for (key_id,) in rows.fetchall()}


def test_what_is_remembered_under_keys_that_the_server_wrapped_is_found_again(service):
    assert remember(service, "alice", "one", "The word heliotrope was said.")[0] == 201
    time.sleep(1.1)  # the opened keys are gone: they come from the server again
    assert found(service, service.token("alice")) == (200, ["The word heliotrope was said."])
    assert wrapped_by(service) == {"transit:r1-memory:1"}


def test_when_the_servers_key_is_rotated_old_keys_open_and_new_ones_name_the_new_version(service, key_server):
    assert remember(service, "carol", "one", "Before the rotation.")[0] == 201
    key_server.ask("POST", "transit/keys/r1-memory/rotate", {})
    assert remember(service, "dave", "one", "After the rotation.")[0] == 201
    time.sleep(1.1)
    assert found(service, service.token("carol")) == (200, ["Before the rotation."])
    assert found(service, service.token("dave")) == (200, ["After the rotation."])
    assert wrapped_by(service) == {"transit:r1-memory:1", "transit:r1-memory:2"}


def test_a_wrapped_key_that_is_moved_to_another_user_does_not_open(service):
    for user in ("erin", "frank"):
        assert remember(service, user, "one", f"What {user} said.")[0] == 201
    with service.superuser() as connection:
        connection.execute(
            "UPDATE memory_data_keys SET (key_id, sealed_key) = (SELECT key_id, sealed_key FROM memory_data_keys k2 "
            "WHERE k2.user_hash <> memory_data_keys.user_hash ORDER BY created_at DESC LIMIT 1) WHERE user_hash = "
            "(SELECT user_hash FROM memory_tenants ORDER BY created_at DESC LIMIT 1)"
        )
    time.sleep(1.1)
    assert found(service, service.token("frank")) == (500, "decryption_failed")
    assert found(service, service.token("erin"))[0] == 200


def test_while_the_server_hangs_open_keys_serve_others_are_unavailable_and_all_is_well_after(service, key_server):
    token = service.token("grace")
    assert remember(service, "grace", "one", "Kept for its time.")[0] == 201
    key_server.pause()
    try:
        assert found(service, token) == (200, ["Kept for its time."]), "its key is open"
        until(lambda: found(service, token) == (503, "key_unavailable"), "the key was never asked for again")
        assert remember(service, "heidi", "one", "A new user.")[1]["code"] == "key_unavailable"
        readiness = service.call("GET", "/api/v1/health/ready", token)[1]
        until(
            lambda: service.call("GET", "/api/v1/health/ready", token)[1]["components"]["keys"]["status"] == "degraded",
            f"ready never told of it: {readiness}",
        )
    finally:
        key_server.go_on()
    until(lambda: found(service, token) == (200, ["Kept for its time."]), "it never came back")
    assert remember(service, "heidi", "one", "A new user.")[0] == 201


def test_when_the_server_was_killed_and_is_back_sealed_then_unsealed_nothing_is_lost(service, key_server):
    token = service.token("mallory")
    assert remember(service, "mallory", "one", "Said before the crash.")[0] == 201
    key_server.kill()
    until(lambda: found(service, token) == (503, "key_unavailable"), "the key was never asked for again")
    key_server.start()
    until(lambda: found(service, token) == (200, ["Said before the crash."]), "it never came back")


def test_what_the_master_key_wrapped_before_opens_beside_what_the_server_wraps(key_server, folder):
    service = Service(folder / "var")
    transit = {"MEMORY_TRANSIT_URL": key_server.url, "MEMORY_TRANSIT_TOKEN": key_server.token}
    for provider, user in (("local", "ivan"), ("transit", "judy"), ("local", "kim")):
        service.environment |= {"MEMORY_KEY_PROVIDER": provider, **transit}
        service.start()
        try:
            assert remember(service, user, "one", f"Said under {provider}.")[0] == 201
            for one, text in (("ivan", "local"), ("judy", "transit"), ("kim", "local"))[: 1 + len(wrapped_by(service))]:
                status, texts = found(service, service.token(one))
                assert (status, texts) in ((200, [f"Said under {text}."]), (200, []))
            assert found(service, service.token("ivan")) == (200, ["Said under local."])
        finally:
            service.stop()
    service.start()
    try:
        assert found(service, service.token("judy")) == (200, ["Said under transit."])
        assert {key_id.partition(":")[0] for key_id in wrapped_by(service)} == {"k1", "transit"}
    finally:
        service.stop()


def rotate(service: Service, *arguments: str) -> tuple[int, dict]:
    """`manage.py rotate_keys` beside the service, with its settings: exit code, and what it said."""
    environment = {**service.environment, "DJANGO_SETTINGS_MODULE": "r1site.settings.dev"}
    command = [sys.executable, "manage.py", "rotate_keys", *arguments]
    done = subprocess.run(command, cwd=service.tree, env=environment, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"refused": done.stderr}


def test_a_deployment_moves_from_the_file_to_the_server_to_its_next_version_and_back(key_server):
    with running(
        MEMORY_TRANSIT_URL=key_server.url, MEMORY_TRANSIT_TOKEN=key_server.token, MEMORY_KEY_CACHE_SECONDS="1"
    ) as service:
        for user in ("alice", "bob"):
            assert remember(service, user, "one", f"What {user} said.")[0] == 201
        tokens = {user: service.token(user) for user in ("alice", "bob")}

        def wrap_by(provider: str) -> None:
            service.stop()
            service.environment["MEMORY_KEY_PROVIDER"] = provider
            service.start()

        def all_is_under(key_id: str) -> None:
            code, said = rotate(service, "--rewrap")
            assert (code, said["done"], said["left"]) == (0, 4, 0)
            assert wrapped_by(service) == {key_id}
            time.sleep(1.1)
            for user, token in tokens.items():
                assert found(service, token) == (200, [f"What {user} said."])

        assert wrapped_by(service) == {"k1"}
        service.environment["MEMORY_KEY_PROVIDER"] = "transit"
        code, said = rotate(service, "--rewrap")
        assert code == 1 and "wrap under k1" in said["refused"], "the worker does not ask the server yet"
        wrap_by("transit")
        version = rotate(service, "--status")[1]["wraps"].rpartition(":")[2]
        all_is_under(f"transit:r1-memory:{version}")
        key_server.ask("POST", "transit/keys/r1-memory/rotate", {})
        all_is_under(f"transit:r1-memory:{int(version) + 1}")
        assert rotate(service, "--retire", f"transit:r1-memory:{version}", "--without-backups")[0] == 0
        wrap_by("local")
        all_is_under("k1")
