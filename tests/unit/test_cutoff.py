"""Moments at which a read ends: each comes in time, and those that were cancelled wake nobody for themselves."""

from __future__ import annotations

import socket
import time

import pytest

from memory.admission import cutoff
from memory.admission.cutoff import Cutoff, reading_until


@pytest.fixture
def pairs():
    """Makes (a reading socket, its peer)."""
    made = []

    def make():
        made.append(socket.socketpair())
        made[-1][0].settimeout(30)
        return made[-1]

    yield make
    for sockets in made:
        for each in sockets:
            each.close()


@pytest.fixture
def watch(monkeypatch):
    """A watch of its own, that counts how often its thread has woken."""
    wakes: list[int] = []
    due = cutoff._Watch._due

    def counted(self):
        found = due(self)
        wakes.append(len(found))
        return found

    monkeypatch.setattr(cutoff._Watch, "_due", counted)
    watch = cutoff._Watch()
    watch.wakes = wakes
    monkeypatch.setattr(cutoff, "_current", watch)
    return watch


def test_a_read_ends_at_its_moment_and_says_so(pairs):
    reading, _ = pairs()
    with reading_until(reading, time.monotonic() + 0.05) as ends:
        assert reading.recv(1) == b""
    assert ends.has_fired


def test_moments_come_in_their_order_whatever_the_order_they_were_set_in(watch, pairs):
    (late, late_peer), (soon, _) = pairs(), pairs()
    began = time.monotonic()
    with reading_until(late, began + 60) as at_the_end, reading_until(soon, began + 0.05) as first:
        assert soon.recv(1) == b"" and first.has_fired
        late_peer.sendall(b"x")
        assert late.recv(1) == b"x" and not at_the_end.has_fired


def test_what_was_cancelled_neither_ends_a_read_nor_wakes_the_thread(watch, pairs):
    """A hundred of them come and are cancelled, as by a caller's requests; then one that is meant."""
    began = time.monotonic()
    reading, peer = pairs()
    for number in range(100):
        with reading_until(reading, began + 3 + number / 1_000):
            time.sleep(0.001)
    meant, _ = pairs()
    with reading_until(meant, began + 3.5) as ends:
        assert meant.recv(1) == b"" and ends.has_fired
    peer.sendall(b"x")
    assert reading.recv(1) == b"x"
    # When the first was set, at its moment, by when all were cancelled but the one that was meant, and at that one's.
    assert sum(watch.wakes) == 1 and len(watch.wakes) <= 3
    assert not watch._waiting


def test_one_set_for_an_earlier_moment_wakes_the_thread(watch, pairs):
    (far, _), (near, _) = pairs(), pairs()
    with reading_until(far, time.monotonic() + 60):
        while not watch._changed._waiters:  # the thread waits for that one
            time.sleep(0.001)
        with reading_until(near, time.monotonic() + 0.05) as ends:
            assert near.recv(1) == b"" and ends.has_fired


def test_a_cancelled_moment_lets_go_of_its_socket(pairs):
    reading, peer = pairs()
    ends = Cutoff(reading, time.monotonic())
    ends.cancel()
    ends.fire()
    assert ends.is_over and not ends.has_fired
    peer.sendall(b"x")
    assert reading.recv(1) == b"x"
