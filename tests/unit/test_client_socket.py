"""What a client does not take of an answer is kept, and holds no thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from r1site.client_socket import ClientSocket

LARGE = bytes(range(256)) * 20_000


@pytest.fixture
def ends() -> Iterator[tuple[ClientSocket, socket.socket]]:
    """Ours as gunicorn has it, and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        yield ClientSocket(ours), theirs


def received(client: socket.socket, number: int) -> bytes:
    taken = b""
    while len(taken) < number:
        taken += client.recv(65_536)
    return taken


def test_a_small_answer_leaves_whole_and_the_socket_blocks_as_before(ends):
    ours, theirs = ends
    ours.sendall(b"answer")
    assert (theirs.recv(100), bytes(ours.unsent), ours.gettimeout()) == (b"answer", b"", None)


def test_a_large_answer_leaves_whole_to_a_client_that_reads(ends):
    ours, theirs = ends
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(received(theirs, len(LARGE))))
    reader.start()
    ours.sendall(LARGE)
    left = bytes(ours.unsent)
    ours.setblocking(True)
    ours._connection.sendall(left)
    reader.join(10)
    assert taken == [LARGE]


def test_what_a_client_does_not_read_is_kept_in_order(ends):
    ours, theirs = ends
    ours.sendall(LARGE)
    ours.sendall(b"the end")
    sent = len(LARGE) + len(b"the end") - len(ours.unsent)
    assert 0 < sent < len(LARGE)
    assert received(theirs, sent) + bytes(ours.unsent) == LARGE + b"the end"
    assert ours.gettimeout() is None


def test_a_stream_which_has_a_time_limit_waits_for_its_reader(ends):
    ours, _ = ends
    ours.settimeout(0.3)
    with pytest.raises(TimeoutError):
        ours.sendall(LARGE)
    assert not ours.unsent


def test_a_client_that_has_gone_is_an_error_as_ever(ends):
    ours, theirs = ends
    theirs.close()
    with pytest.raises(OSError):
        ours.sendall(LARGE)
