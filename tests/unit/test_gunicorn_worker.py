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
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.workers.gthread import ThreadWorker

from memory.admission import deadline
from r1site.gunicorn_worker import Connection, Worker
from r1site.warm_threads import WarmThreads

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


# All of its threads may stay, so that what keeps them from it is that somebody waits.
APP = """
import threading
import time

from r1site.gunicorn_worker import Worker

class Staying(Worker):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._may_stay = threading.Semaphore(self.cfg.threads)

def app(environ, start_response):
    time.sleep(0.02)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
STEADY = 8
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def port(tmp_path) -> Iterator[int]:
    """Of a real gunicorn with our worker and as many threads as there are STEADY clients."""
    (tmp_path / "takes_a_while.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        gunicorn = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "-k", "takes_a_while.Staying", "--threads", str(STEADY)),
                *("-b", f"fd://{listener.fileno()}", "--no-control-socket"),
                *("--graceful-timeout", "5", "takes_a_while:app"),
            ],
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}, pass_fds=[listener.fileno()],
        )  # fmt: skip
        try:
            yield listener.getsockname()[1]
        finally:
            gunicorn.terminate()
            try:
                gunicorn.wait(30)
            finally:
                gunicorn.kill()


def test_clients_that_ask_without_a_pause_keep_no_thread_from_a_new_one(port):
    answered, stop = [0] * STEADY, threading.Event()

    def ask_on(number: int) -> None:
        """The next request is there before the answer to the one before."""
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client, client.makefile("rb") as answers:
            client.sendall(REQUEST)
            while not stop.is_set():
                time.sleep(0.008)
                client.sendall(REQUEST)
                while answers.readline() != b"\r\n":
                    pass
                assert answers.read(2) == b"ok"
                answered[number] += 1

    steady = [threading.Thread(target=ask_on, args=[number]) for number in range(STEADY)]
    for thread in steady:
        thread.start()
    try:
        while sum(answered) < STEADY * 5:
            time.sleep(0.01)
        for _ in range(5):
            before = sum(answered)
            new = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            new.request("GET", "/")
            assert new.getresponse().read() == b"ok"
            new.close()
            # In turn each of them is answered once or twice meanwhile.
            assert sum(answered) - before < STEADY * 10
    finally:
        stop.set()
        for thread in steady:
            thread.join(60)


@pytest.fixture
def staying(worker, connect) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection whose request was answered, and its client; the worker's one thread for such is free."""
    client = connect()
    connection = worker.pending_conns[0]
    connection.parser = SimpleNamespace(unreader=SimpleNamespace(buf=SimpleNamespace(getvalue=lambda: b"")))
    worker.alive, worker.tpool, worker._may_stay = True, WarmThreads(1), threading.Semaphore(1)
    yield connection, client
    worker.tpool.shutdown()


def test_a_thread_that_stays_handles_the_next_request_by_its_own_time(worker, staying, monkeypatch):
    connection, client = staying
    seen: list[tuple[float, float, object]] = []

    def one_request(self, conn):
        conn.sock.setblocking(True)
        conn.sock.recv(1)
        seen.append((conn.arrived_at, deadline.arrived_at(), conn.header_cutoff))
        if len(seen) < 3:
            client.sendall(b"G")
        return len(seen) < 3

    monkeypatch.setattr(ThreadWorker, "handle", one_request)
    client.sendall(b"G")
    connection.arrived_at = time.monotonic()
    assert worker.handle(connection) is False
    times, deadlines, cutoffs = zip(*seen, strict=True)
    assert len(seen) == 3 and times == deadlines and times[0] < times[1] < times[2]
    assert len(set(map(id, cutoffs))) == 3


def test_a_stay_ends_where_somebody_waits_for_a_thread_and_at_a_stop(worker, staying):
    connection, client = staying
    client.sendall(b"G")
    assert worker._speaks_again(connection)
    hold, begun = threading.Event(), threading.Event()
    worker.tpool.submit(lambda: (begun.set(), hold.wait(30)))
    assert begun.wait(30) and worker._speaks_again(connection)
    waits = worker.tpool.submit(int)
    assert not worker._speaks_again(connection)
    hold.set()
    waits.result(30)
    assert worker._speaks_again(connection)
    worker.ppid = -1  # Its master has died.
    worker.log = SimpleNamespace(info=lambda *words: None)
    assert not worker.is_parent_alive() and not worker._speaks_again(connection)


def test_who_does_not_speak_again_has_no_thread_for_long(worker, staying):
    connection, client = staying
    assert not worker._speaks_again(connection)
    client.sendall(b"G")
    with worker._may_stay:
        assert not worker._speaks_again(connection)
    # What was read ahead would not be seen on the socket.
    connection.parser.unreader.buf.getvalue = lambda: b"ET"
    assert not worker._speaks_again(connection)
