"""The ends of connections: late answers leave when their time has come, and hold up nobody until then."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import pytest
from django.conf import settings

from memory.admission.refusals import LATE
from r1site import goodbyes
from r1site.goodbyes import AnswersLate, Goodbyes, LateAnswer, answering_late

ANSWER = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
NEVER_SECONDS = 3_600.0


@pytest.fixture
def said_by() -> Goodbyes:
    return Goodbyes()


@pytest.fixture
def end_of(said_by):
    """`end_of(late)`: the client's end of a connection that was said goodbye to."""
    with ExitStack() as stack:

        def end_of(late: LateAnswer | None) -> socket.socket:
            ours, theirs = socket.socketpair()
            stack.enter_context(theirs)
            theirs.settimeout(10)
            said_by.add(ours, late)
            return theirs

        yield end_of


def late_by(seconds: float) -> LateAnswer:
    return LateAnswer(time.monotonic() + seconds, ANSWER)


def everything(client: socket.socket) -> bytes:
    received = b""
    while part := client.recv(4096):
        received += part
    return received


def test_an_answer_whose_time_has_come_is_sent_whole_and_then_the_connection_ends(end_of):
    assert everything(end_of(late_by(0))) == ANSWER


def test_one_that_waits_holds_up_no_other_goodbye(end_of):
    waits = end_of(late_by(NEVER_SECONDS))
    assert everything(end_of(None)) == b""
    assert everything(end_of(late_by(0))) == ANSWER
    waits.setblocking(False)
    with pytest.raises(BlockingIOError):
        waits.recv(1)


def test_a_client_who_left_before_his_answer_costs_the_others_nothing(end_of):
    gone = end_of(late_by(0.2))
    gone.close()
    assert everything(end_of(late_by(0.2))) == ANSWER


def test_where_too_many_wait_already_the_answer_leaves_at_once(end_of, monkeypatch):
    monkeypatch.setattr(goodbyes, "LATE_MAX", 1)
    end_of(late_by(NEVER_SECONDS))
    assert everything(end_of(late_by(NEVER_SECONDS))) == ANSWER


def test_answers_that_wait_leave_room_for_those_who_only_go(end_of, monkeypatch):
    monkeypatch.setattr(goodbyes, "LINGERING_MAX", 2)
    monkeypatch.setattr(goodbyes, "LATE_MAX", 1)
    for _ in range(3):
        end_of(late_by(NEVER_SECONDS))
    goes = end_of(None)
    assert goes.send(b"what was still under way") and everything(goes) == b""


def test_at_the_workers_end_what_waits_leaves_at_once(said_by, end_of):
    waiting = [end_of(late_by(NEVER_SECONDS)) for _ in range(3)]
    said_by.finish()
    assert [everything(client) for client in waiting] == [ANSWER] * 3


LARGE = bytes(range(256)) * 20_000


def test_the_rest_of_a_large_answer_is_sent_as_its_reader_takes_it_and_holds_up_nobody(end_of):
    reader = end_of(LateAnswer(time.monotonic(), LARGE))
    assert everything(end_of(late_by(0))) == ANSWER
    assert everything(reader) == LARGE


def test_who_does_not_take_his_answer_in_time_is_cut(end_of, monkeypatch):
    monkeypatch.setattr(settings, "MEMORY_SEND_SECONDS", 0.2)
    reader = end_of(LateAnswer(time.monotonic(), LARGE))
    time.sleep(1)
    assert len(everything(reader)) < len(LARGE)


def test_of_more_than_may_wait_for_readers_the_longest_waiting_is_cut(end_of, monkeypatch):
    monkeypatch.setattr(goodbyes, "SENDING_MAX_BYTES", int(1.5 * len(LARGE)))
    first, second = (end_of(LateAnswer(time.monotonic(), LARGE)) for _ in range(2))
    assert everything(second) == LARGE
    assert len(everything(first)) < len(LARGE)


def application(late: bool):
    def application(environ, start_response):
        if late:
            environ[LATE] = 5.0
        start_response("429 Too Many Requests", [("Content-Length", "4"), ("Retry-After", "1"), ("Connection", "x")])
        return [b"no", b"pe"]

    return application


def test_what_leaves_late_is_the_whole_answer_without_a_word_said_before():
    said = []
    with pytest.raises(AnswersLate) as raised:
        answering_late(application(late=True))({}, lambda *args: said.append(args))
    head, _, body = raised.value.answer.content.partition(b"\r\n\r\n")
    assert said == []
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 1" in head and b"\r\nContent-Length: 4" in head
    assert head.count(b"Connection: ") == 1 and b"Connection: close" in head
    assert body == b"nope"


def test_every_other_answer_goes_the_usual_way():
    said = []
    body = answering_late(application(late=False))({}, lambda *args: said.append(args))
    assert body == [b"no", b"pe"]
    assert [args[0] for args in said] == ["429 Too Many Requests"]
