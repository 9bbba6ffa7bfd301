"""Our gunicorn worker: what becomes of connections that nobody speaks on."""

from __future__ import annotations

import errno
import selectors
import socket
from collections import deque
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from r1site.gunicorn_worker import Worker

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
