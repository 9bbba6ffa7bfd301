"""A user's whole memory over real sockets: exported, erased, indexed again; and broken off where it must be."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from pathlib import Path

import psycopg
import pytest

from tests.faults.service import running

# A worker that was killed is replaced by one that loads its model anew, beside whatever else the machine does.
LIMIT_SECONDS = 180
DOCUMENTS = {
    f"notes/{number:02}": {
        "doc_id": f"notes/{number:02}", "text": f"On day {number} the keeper wrote:\n“the sea was calm” 🙂.",
        "source": "notes", "thread_id": f"week-{number // 7}", "metadata": {"day": number, "tags": ["sea", None]},
        "created_at": f"2026-01-{number + 1:02}T08:00:00Z",
    }
    for number in range(12)
}  # fmt: skip


@pytest.fixture(scope="module")
def service():
    with running(WEB_CONCURRENCY="2") as service:
        yield service


def remember(service, token: str, documents=None) -> None:
    for document in documents or DOCUMENTS.values():
        status, answer = service.call("POST", "/api/v1/memory/index", token, document)
        assert status in (200, 201), answer


def export(service, token: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", "/api/v1/memory/export", headers={"Authorization": f"Bearer {token}"})
    return connection.getresponse()


def lines(response: http.client.HTTPResponse) -> list[dict]:
    return [json.loads(line) for line in response.read().decode().split("\n")[:-1]]


def erase(service, token: str, user: str) -> dict:
    status, receipt = service.call("POST", "/api/v1/memory/erase", token, {"confirm": user})
    assert status == 200, receipt
    return receipt


def test_export_erase_and_import_give_equal_documents(service):
    token = service.token("alice")
    remember(service, token)
    summary = {"doc_id": "a-summary", "text": "Calm.", "source": "summary",
               "metadata": {"derived_from": sorted(DOCUMENTS)}, "created_at": "2026-02-01T00:00:00Z"}  # fmt: skip
    remember(service, token, [summary])
    response = export(service, token)
    assert (response.status, response.headers["Content-Type"]) == (200, "application/x-ndjson; charset=utf-8")
    assert response.headers["Transfer-Encoding"] == "chunked"
    exported = lines(response)
    assert exported == [*DOCUMENTS.values(), summary]
    assert erase(service, token, "alice")["erased_documents"] == 13
    assert lines(export(service, token)) == []
    remember(service, token, exported)
    assert lines(export(service, token)) == exported
    status, listing = service.call("GET", "/api/v1/memory/documents?limit=5", token)
    assert status == 200 and listing["next"].startswith(f"http://127.0.0.1:{service.port}/api/v1/memory/documents?")
    assert listing["results"][0]["derived_from"] == sorted(DOCUMENTS)


def test_a_slow_reader_of_an_export_holds_no_transaction(service):
    """More than all the buffers between here and there: the service has to wait for its reader."""
    token = service.token("slow")
    documents = [
        {"doc_id": f"large/{number:03}", "text": "A bill.", "metadata": {"note": "x" * 60_000}} for number in range(100)
    ]
    for first in range(0, len(documents), 10):
        batch = {"documents": documents[first : first + 10]}
        assert service.call("POST", "/api/v1/memory/index", token, batch)[0] == 201
    response = export(service, token)
    exported = [json.loads(response.readline())["doc_id"]]
    with service.superuser() as watcher:
        # It may still be reading the page that it then waits with; what it holds as it waits never ends.
        deadline = time.monotonic() + LIMIT_SECONDS
        held = "SELECT state, query FROM pg_stat_activity WHERE usename = 'r1_app' AND xact_start IS NOT NULL"
        while found := watcher.execute(held).fetchall():
            assert time.monotonic() < deadline, found
    # It was waiting, and had not yet come to its end: what is stored now is in it.
    last = {"doc_id": "later-on", "text": "A bill."}
    remember(service, token, [last])
    exported += [line["doc_id"] for line in lines(response)]
    assert exported == [document["doc_id"] for document in [*documents, last]]


def test_an_export_that_meets_a_document_which_does_not_open_ends_so_that_the_client_notices(service):
    """More than a page of small documents, so that the answer has begun when it happens."""
    token = service.token("broken")
    with service.superuser() as database:
        before = {row[0] for row in database.execute("SELECT user_hash FROM memory_tenants")}
        remember(service, token, [{"doc_id": f"doc-{number:03}", "text": "Calm."} for number in range(60)])
        [user_hash] = {row[0] for row in database.execute("SELECT user_hash FROM memory_tenants")} - before
        changed = database.execute(
            "UPDATE memory_chunks SET text_cipher = set_byte(text_cipher, 20, get_byte(text_cipher, 20) # 1)"
            " WHERE user_hash = %s AND doc_id = 'doc-055'", [user_hash],
        )  # fmt: skip
        assert changed.rowcount == 1
    response = export(service, token)
    assert response.status == 200
    with pytest.raises(http.client.IncompleteRead) as broken:
        response.read()
    whole = broken.value.partial.decode().split("\n")[:-1]
    assert [json.loads(line)["doc_id"] for line in whole] == [f"doc-{number:03}" for number in range(50)]
    assert "Calm" not in service.log.read_text()
    assert service.call("GET", "/api/v1/memory/stats", token)[1]["quarantined_chunks"] == 1


def test_an_erasure_cut_short_by_the_death_of_its_worker_is_finished_by_the_next_call(service):
    """The worker is killed outright while a lock holds its erasure up in the middle of the rows."""
    token = service.token("killed")
    with service.superuser() as database, service.superuser() as watcher:
        before = {row[0] for row in database.execute("SELECT user_hash FROM memory_tenants")}
        remember(service, token)
        [user_hash] = {row[0] for row in database.execute("SELECT user_hash FROM memory_tenants")} - before
        workers = _workers(service)
        assert len(workers) == 2
        database.execute("ALTER ROLE r1_app SET lock_timeout = '30s'")
        try:
            for pid in _backends(watcher):
                watcher.execute("SELECT pg_terminate_backend(%s)", [pid])
            # A worker that has noticed it takes the database for lost, and says so to whoever comes next.
            stats = "/api/v1/memory/stats"
            _wait_until(lambda: all(service.call("GET", stats, token)[0] == 200 for _ in range(8)))
            with database.transaction():
                # The deletion of the documents waits here; keys and chunks are gone by then.
                database.execute("SELECT FROM memory_documents WHERE user_hash = %s FOR UPDATE", [user_hash])
                connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                connection.request("POST", "/api/v1/memory/erase", '{"confirm": "killed"}', headers)
                _wait_until(lambda: watcher.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'r1_app' AND wait_event_type = 'Lock'"
                ).fetchone()[0] == 1)  # fmt: skip
                for pid in workers:
                    os.kill(pid, signal.SIGKILL)
                service.wait_until_gone(workers)
        finally:
            database.execute("ALTER ROLE r1_app SET lock_timeout = '1500ms'")
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            connection.getresponse().read()
        _wait_until(lambda: len(_workers(service)) == 2 and _is_up(service))
        left = watcher.execute(
            "SELECT t.state, t.chunk_count, (SELECT count(*) FROM memory_documents d WHERE d.user_hash = t.user_hash),"
            " (SELECT count(*) FROM memory_data_keys k WHERE k.user_hash = t.user_hash)"
            " FROM memory_tenants t WHERE user_hash = %s", [user_hash],
        ).fetchone()  # fmt: skip
        assert left == ("erasing", 12, 12, 0)
        assert service.call("GET", "/api/v1/memory/stats", token)[0] == 503
        receipt = erase(service, token, "killed")
        assert (receipt["erased_documents"], receipt["erased_chunks"], receipt["key_destroyed"]) == (12, 12, True)
        remember(service, token)
        assert lines(export(service, token)) == list(DOCUMENTS.values())


def _workers(service) -> list[int]:
    """gunicorn's workers: children of the process that the launcher has become or started, running Python."""
    found = []
    for pid in service.processes():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            parents_command = Path(f"/proc/{parent}/cmdline").read_text()
        except OSError:
            continue
        if "gunicorn" in command and "gunicorn" in parents_command:
            found.append(pid)
    return found


def _backends(connection: psycopg.Connection) -> list[int]:
    return [pid for (pid,) in connection.execute("SELECT pid FROM pg_stat_activity WHERE usename = 'r1_app'")]


def _is_up(service) -> bool:
    try:
        return service.call("GET", "/api/v1/health/live", "")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _wait_until(condition) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to that within {LIMIT_SECONDS} s"
        time.sleep(0.05)
