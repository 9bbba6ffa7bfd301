"""Our gunicorn worker: what becomes of connections that nobody speaks on, and of those that speak again."""

from __future__ import annotations

import errno
import http.client
import os
import selectors
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from r1site.gunicorn_worker import Worker

ROOT = Path(__file__).resolve().parents[2]

LIMIT = 4


@pytest.fixture
def worker():
    """As after the fork, with room for LIMIT - 1 connections beside the one that is being accepted."""
    worker = Worker.__new__(Worker)
    worker.cfg = SimpleNamespace(is_ssl=False, keepalive=15)
    worker.nr_conns, worker.worker_connections = 0, LIMIT
    worker.pending_conns, worker.keepalived_conns = deque(), deque()
    worker.poller = selectors.DefaultSelector()
    yield worker
    for connection in (*worker.pending_conns, *worker.keepalived_conns):
        connection.close()
    worker.poller.close()


@pytest.fixture
def connect(worker):
    """A client whose connection the worker has accepted."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def connect() -> socket.socket:
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            client.settimeout(5)
            worker.accept(listener)
            return client

        yield connect


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True


def test_at_the_limit_the_longest_silent_connection_goes_and_the_new_one_is_taken(worker, connect):
    clients = [connect() for _ in range(LIMIT + 2)]
    assert clients[0].recv(1) == b""
    assert worker.nr_conns == LIMIT - 1
    assert [is_open(client) for client in clients] == [False] * 3 + [True] * (LIMIT - 1)


def test_one_that_never_spoke_goes_before_one_that_is_kept_alive(worker, connect):
    kept = connect()
    worker.keepalived_conns.append(worker.pending_conns.popleft())
    silent = [connect() for _ in range(LIMIT)]
    assert is_open(kept) and not is_open(silent[0])


def test_a_graceful_stop_waits_no_longer_for_who_never_spoke(worker, connect):
    connect()
    worker._cap_keepalive(1.0)
    assert [connection.timeout for connection in worker.pending_conns] == [1.0]


class _NoDescriptor:
    def accept(self):
        raise OSError(errno.EMFILE, "Too many open files")


def test_where_descriptors_have_run_out_the_longest_silent_one_gives_its_up_and_the_worker_goes_on(worker, connect):
    clients = [connect() for _ in range(2)]
    worker.accept(_NoDescriptor())
    assert [is_open(client) for client in clients] == [False, True]
    for _ in range(2):
        worker.accept(_NoDescriptor())
    assert worker.nr_conns == 0


APP = """
import threading

ALL_AT_ONCE = threading.Barrier(8)

def app(environ, start_response):
    if environ["PATH_INFO"] == "/together":
        ALL_AT_ONCE.wait(30)
    body = str(threading.get_ident()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def port(tmp_path) -> Iterator[int]:
    """Of a real gunicorn with our worker and eight threads, of which two may stay with a client."""
    (tmp_path / "answers_with_its_thread.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        gunicorn = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "-k", "r1site.gunicorn_worker.Worker", "--threads", "8"),
                *("-b", f"fd://{listener.fileno()}", "--chdir", str(tmp_path), "answers_with_its_thread:app"),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, pass_fds=[listener.fileno()],
        )  # fmt: skip
        try:
            yield listener.getsockname()[1]
        finally:
            gunicorn.terminate()
            gunicorn.wait(30)


def test_a_thread_stays_with_the_client_that_it_has_answered(port):
    clients = [http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in range(8)]
    for each in clients:
        each.request("GET", "/together")
    assert len({each.getresponse().read() for each in clients}) == 8
    client = clients[0]
    threads = [thread_of(client) for _ in range(40)]
    # On a busy machine a client can be too late now and then, and has another thread.
    again = sum(one == other for one, other in zip(threads, threads[1:], strict=False))
    assert again > len(threads) / 2


def test_threads_that_stay_leave_the_others_to_new_clients_and_all_are_answered(port):
    clients = [http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in range(24)]
    for _ in range(3):
        for client in clients:
            client.request("GET", "/")
        assert all(client.getresponse().read() for client in clients)


def thread_of(client: http.client.HTTPConnection) -> bytes:
    client.request("GET", "/")
    return client.getresponse().read()


def test_who_does_not_speak_again_has_no_thread_for_long_and_nobody_has_one_at_a_stop(worker, connect):
    client = connect()
    connection = worker.pending_conns[0]
    connection.parser = SimpleNamespace(unreader=SimpleNamespace(buf=SimpleNamespace(getvalue=lambda: b"")))
    worker.alive, worker._may_stay = True, threading.Semaphore(1)
    assert not worker._speaks_again(connection)
    client.sendall(b"G")
    assert worker._speaks_again(connection)
    with worker._may_stay:
        assert not worker._speaks_again(connection)
    worker.alive = False
    assert not worker._speaks_again(connection)
    # What was read ahead would not be seen on the socket.
    worker.alive, connection.parser.unreader.buf.getvalue = True, lambda: b"ET"
    assert not worker._speaks_again(connection)
