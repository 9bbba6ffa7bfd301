"""Events on the wire, and a stream that comes to exactly one end."""

import time

import pytest

from memory.api.streaming import sse
from memory.api.streaming.client import PIECE_BYTES, StreamClient
from memory.api.streaming.sse import HEARTBEAT, EventStream, frame
from memory.errors import Overloaded
from memory.services.stream import Citations, Delta, Done, Silence
from tests.sse import Event, read_events


@pytest.mark.parametrize(
    "text",
    ["plain", "two\nlines", "\r\n\r\n", "data: x\n\nevent: done\n\n", "\u2028\u2029\x85", "🪶 ありがとう", "", "\x00"],
)
def test_whatever_a_delta_holds_is_one_event_and_comes_back_exact(text):
    assert read_events(frame("token", {"delta": text}, 7)) == [Event("7", "token", {"delta": text})]


def test_a_lone_surrogate_does_not_break_the_encoding():
    assert read_events(frame("token", {"delta": "a\ud83db"}, 1))[0].data == {"delta": "a?b"}


class Body:
    """An EventStream over `events`, with what happened to it."""

    def __init__(self, events, client=None):
        self.released = 0
        self.was_closed = False

        def generate():
            try:
                for event in events:
                    if isinstance(event, Exception):
                        raise event
                    yield event
            finally:
                self.was_closed = True

        self.stream = EventStream(
            generate(), started=0.0, client=client or StreamClient(None),
            problem=lambda error: {"code": getattr(error, "code", "internal")}, release=self._release, variant="r1",
        )  # fmt: skip

    def _release(self):
        self.released += 1


NOTHING = [Citations(None), Delta("a")]


def test_ids_count_up_over_all_events():
    body = Body([*NOTHING, Delta("b"), Done("stop", {})])
    events = read_events(b"".join(body.stream))
    assert [(event.id, event.name) for event in events] == [
        ("1", "citations"), ("2", "token"), ("3", "token"), ("4", "done"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "last"),
    [
        ([Done("stop", {}), Delta("never"), Done("stop", {})], ("done", None)),
        ([Overloaded(), Done("stop", {})], ("error", "overloaded")),
        ([ValueError("content")], ("error", "internal")),
        ([], ("error", "internal")),
    ],
    ids=["done", "known error", "unknown error", "no end"],
)
def test_there_is_exactly_one_end_and_nothing_after_it(ending, last):
    body = Body([*NOTHING, *ending])
    events = read_events(b"".join(body.stream))
    assert [event.name for event in events if event.name in ("done", "error")] == [last[0]]
    assert (events[-1].name, events[-1].data.get("code")) == last
    body.stream.close()
    assert body.was_closed


def test_an_event_that_its_reader_is_too_slow_for_is_broken_off(settings):
    settings.MEMORY_STREAM_MAX_SECONDS = 0.05
    body = Body([Delta("x" * 3 * PIECE_BYTES), Done("stop", {})])
    next(body.stream)
    time.sleep(0.06)
    with pytest.raises(TimeoutError):
        next(body.stream)
    assert (body.released, body.was_closed) == (1, True)
    assert list(body.stream) == []


def test_an_event_that_has_not_begun_to_go_out_is_not_cut(settings):
    settings.MEMORY_STREAM_MAX_SECONDS = 0.05
    body = Body([Delta("x" * (PIECE_BYTES - 100)), Overloaded()])
    next(body.stream)
    time.sleep(0.06)
    assert [event.name for event in read_events(b"".join(body.stream))] == ["error"]


def test_closing_it_early_or_twice_gives_the_slot_back_once():
    body = Body([*NOTHING, Done("stop", {})])
    next(body.stream)
    body.stream.close()
    body.stream.close()
    assert (body.released, body.was_closed) == (1, True)
    assert list(body.stream) == []


def test_one_that_was_never_read_gives_its_slot_back_too():
    body = Body(NOTHING)
    del body.stream
    assert body.released == 1


def test_silence_becomes_a_heartbeat_only_once_it_is_long_enough(monkeypatch):
    quiet = [*NOTHING, *[Silence()] * 5, Done("stop", {})]
    assert HEARTBEAT not in b"".join(Body(quiet).stream)
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0)
    raw = b"".join(Body(quiet).stream)
    assert raw.count(HEARTBEAT) == 5
    assert [event.name for event in read_events(raw)] == ["citations", "token", "done"]


def test_a_client_that_left_in_silence_ends_it_without_a_word():
    class Gone(StreamClient):
        def has_left(self):
            return True

    body = Body([*NOTHING, Silence(), Delta("never"), Done("stop", {})], client=Gone(None))
    assert [event.name for event in read_events(b"".join(body.stream))] == ["citations", "token"]


def test_a_long_event_is_sent_in_pieces_that_a_slow_reader_can_take():
    body = Body([Citations(None), Delta("x" * 100_000), Done("stop", {})])
    pieces = list(body.stream)
    assert max(map(len, pieces)) <= PIECE_BYTES
    assert read_events(b"".join(pieces))[1].data == {"delta": "x" * 100_000}
