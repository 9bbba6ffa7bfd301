"""Two workers over real HTTP: one rate for both, a log that gives nobody away, and a worker killed as it writes."""

from __future__ import annotations

import http.client
import json
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.faults.service import running

WORKERS = 2
LIMIT, PER_SECOND, REQUESTS = 60, 1, 200
CHUNKS = 200
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def service():
    # Its space is another one than a prepared folder has.
    with running(
        is_prepared=False,
        WEB_CONCURRENCY=str(WORKERS),
        MEMORY_RATE_QUERY=f"{LIMIT}/min",
        # So that 200 chunks are written, and not a minute spent on embedding them.
        MEMORY_CHUNK_TOKENS="32",
        MEMORY_CHUNK_OVERLAP="0",
        MEMORY_QUERY_SECONDS="60",
        MEMORY_INDEX_SECONDS="600",
        MEMORY_USER_CONCURRENCY="400",
        MEMORY_RESERVED_THREADS="0",
        RERANK_BACKEND="none",
    ) as service:
        yield service


@pytest.fixture
def superuser(service):
    with service.superuser() as connection:
        yield connection


def call(service, method: str, path: str, token: str, body=None, **headers) -> tuple[int, bytes, dict]:
    raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE_SECONDS)
    with closing(connection):
        all_headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
        connection.request(method, f"/api/v1/{path}", raw, all_headers)
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())


def wait_until(condition, what: str):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in {PATIENCE_SECONDS} s: {what}"
        time.sleep(0.02)
    return found


# Rates


def test_two_workers_let_as_many_requests_through_as_the_limit_and_the_time_allow(service):
    token, other = service.token("in a hurry"), service.token("patient")
    started = time.monotonic()
    with ThreadPoolExecutor(REQUESTS) as pool:
        queries = [pool.submit(call, service, "POST", "memory/query", token, {"query": "?"}) for _ in range(REQUESTS)]
        checks = [pool.submit(call, service, "GET", path, token) for path in ("auth/check", "health/live") * 5]
        found = [query.result() for query in queries]
    elapsed_seconds = time.monotonic() - started

    statuses = [status for status, _, _ in found]
    assert set(statuses) == {200, 429}
    assert LIMIT <= statuses.count(200) <= LIMIT + math.floor(elapsed_seconds * PER_SECOND)
    refused = [(json.loads(body), headers) for status, body, headers in found if status == 429]
    codes = {body["code"] for body, _ in refused}
    assert "rate_limited" in codes <= {"rate_limited", "too_many_requests_at_once"}, "whole, those that leave late too"
    assert {headers["Retry-After"] for _, headers in refused} == {"1"}
    assert "close" in {headers.get("Connection") for _, headers in refused}
    assert {check.result()[0] for check in checks} == {204, 200}
    assert call(service, "POST", "memory/query", other, {"query": "?"})[0] == 200
    assert call(service, "GET", "memory/documents/none", token)[0] == 404, "another bucket"


# The access log


def test_no_word_no_user_and_no_document_id_stands_in_the_services_log(service):
    user, doc_id, word = "canary.user@example.org", "canary-document/7", "zukaroplaverq"
    token = service.token(user)
    document = {"doc_id": doc_id, "text": f"The {word} sings.", "metadata": {word: word}, "thread_id": word}
    calls = [
        call(service, "POST", "memory/index", token, document, **{"Idempotency-Key": word}),
        call(service, "POST", f"memory/query?{word}={doc_id}", token, {"query": word}),
        call(service, "GET", f"memory/documents/{doc_id}", token),
        call(service, "GET", f"memory/documents/{doc_id}/{word}", token),
        call(service, "GET", f"{word}/{doc_id}", token),
        call(service, "POST", "memory/index", token, document | {word: word}),
        call(service, "POST", "memory/index", token, f'{{"{word}": '.encode()),
        call(service, "POST", "memory/index", token, document, **{"Content-Type": f"text/{word}"}),
        call(service, "POST", "memory/index", token, document, **{"Idempotency-Key": f"{word} {word}"}),
        call(service, "GET", f"memory/documents/{doc_id}", f"{token}x"),
        call(service, "PUT", f"memory/documents/{doc_id}", token),
        call(service, "DELETE", f"memory/documents/{doc_id}", token, **{"X-User-Id": user, "Cookie": word}),
    ]
    assert [status for status, _, _ in calls] == [201, 200, 200, 404, 404, 422, 400, 415, 422, 401, 405, 204]
    asked = {headers["X-Request-ID"] for _, _, headers in calls}
    access_log = service.var / "log/access.log"

    def lines() -> list[dict]:
        written = [json.loads(line) for line in access_log.read_text().splitlines()]
        return [line for line in written if line["request_id"] in asked]

    wait_until(lambda: len(lines()) == len(calls), "a line for each request")
    assert sorted(line["status"] for line in lines()) == sorted(status for status, _, _ in calls)
    users = {line["user"] for line in lines() if line["status"] not in (401, 415)}
    assert len(users) == 1 and len(users.pop()) == 16
    log = service.log.read_bytes().lower() + access_log.read_bytes().lower()
    for secret in (user, doc_id, "canary", word, token):
        assert secret.lower().encode() not in log


# A worker killed as it writes


def workers(service) -> list[int]:
    """gunicorn's workers: children of the one process whose parent is the launcher and that is gunicorn."""
    parents = {}
    for pid in service.processes():
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes():
            parents[pid] = int(stat[1])
    return [pid for pid, parent in parents.items() if parent in parents]


@contextmanager
def nobody_writes(superuser, table: str):
    """Inside the block whoever writes into `table` waits."""
    with superuser.transaction():
        superuser.execute(f"LOCK TABLE {table} IN SHARE MODE")
        yield


@pytest.mark.parametrize("table", ["memory_chunks", "memory_idempotency"])
def test_a_worker_killed_during_a_write_leaves_all_of_it_or_nothing_and_its_key_brings_it_once(
    service, superuser, table
):
    """Killed among the chunks, nothing is written. Waiting to keep the answer, it may have asked for all that is left:
    then the write is whole, with its answer."""
    token = service.token(f"writer of {table}")
    old = {"doc_id": "log", "text": "The old entry of the log."}
    # Words of a token each, and a chunk holds 30 beside its two special ones.
    body = {"doc_id": "log", "text": "sea sun sky " * (CHUNKS * 10)}
    assert call(service, "POST", "memory/index", token, old)[0] == 201

    waiting = f"SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass"
    open_writes = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'r1_app' AND xact_start IS NOT NULL"
    with ThreadPoolExecutor(1) as pool:
        with nobody_writes(superuser, table):
            first = pool.submit(call, service, "POST", "memory/index", token, body, **{"Idempotency-Key": "log-1"})
            wait_until(lambda: superuser.execute(waiting).fetchone()[0], "the write stands before the lock")
            killed = workers(service)
            assert len(killed) == WORKERS
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            service.wait_until_gone(killed)
        with pytest.raises((http.client.HTTPException, OSError)):
            first.result(PATIENCE_SECONDS)

    def answered(method: str, path: str, *args, **headers):
        try:
            found = call(service, method, path, token, *args, **headers)
        except OSError:
            return None
        return found if found[0] != 503 else None

    wait_until(lambda: superuser.execute(open_writes).fetchone()[0] == 0, "the server ends what it was asked for")
    _, stored, _ = wait_until(lambda: answered("GET", "memory/documents/log"), "a new worker")
    text = json.loads(stored)["text"]
    assert text == old["text"] or (table, text) == ("memory_idempotency", body["text"])
    replayed = "true" if text == body["text"] else None

    status, answer, headers = call(service, "POST", "memory/index", token, body, **{"Idempotency-Key": "log-1"})
    assert (status, json.loads(answer)["chunks"], headers.get("Idempotent-Replayed")) == (200, CHUNKS, replayed)
    stored = json.loads(call(service, "GET", "memory/documents/log", token)[1])
    assert (stored["text"], stored["chunk_ids"]) == (body["text"], json.loads(answer)["chunk_ids"])
    again = call(service, "POST", "memory/index", token, body, **{"Idempotency-Key": "log-1"})
    assert (again[0], again[1], again[2].get("Idempotent-Replayed")) == (status, answer, "true")
    assert json.loads(call(service, "GET", "memory/documents/log", token)[1])["chunk_ids"] == stored["chunk_ids"]
