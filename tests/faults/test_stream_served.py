"""Streams and exports as served: gunicorn, real sockets, clients that leave, dawdle and stop, a silent model."""

import contextlib
import itertools
import socket
import threading
import time

import pytest

from memory.api.streaming.sse import HEARTBEAT_SECONDS
from tests.faults.service import running
from tests.llm_server import STATUS_OK, LLMServer, finish, say
from tests.sse import StreamReader, answer_of

TEXT = "The heat pump was serviced in March. Its filter is changed every six months. The garden has a pear tree."
QUESTION = {"message": "How often is the filter changed?"}
# Each user's share is 2 of them.
STREAMS_MAX = 3
# What should take half a second, on a machine busy with something else.
GUARD_SECONDS = 15
SEND_SECONDS = 4


@pytest.fixture(scope="module")
def llm():
    with LLMServer() as server:
        yield server


@pytest.fixture(scope="module")
def service(llm):
    with running(
        MEMORY_LLM_BASE_URL=llm.base_url,
        MEMORY_LLM_STALL_SECONDS="60",
        MEMORY_SEND_SECONDS=str(SEND_SECONDS),
        MEMORY_STREAMS_MAX=str(STREAMS_MAX),
        # One of them is kept, and two thirds of the others may stream.
        GUNICORN_THREADS=str(STREAMS_MAX * 2),
        MEMORY_RATE_DEFAULT="off",
        MEMORY_RATE_QUERY="off",
        MEMORY_RATE_INDEX="off",
        MEMORY_RATE_CHUNKS="off",
    ) as service:
        yield service


@pytest.fixture(scope="module")
def token(service):
    token = service.token("alice")
    status, _ = service.call("POST", "/api/v1/memory/index", token, {"doc_id": "notes/heating", "text": TEXT})
    assert status == 201
    return token


@pytest.fixture(scope="module")
def tokens(service, token):
    """Of as many users as there are slots, the first being `token`'s."""
    return [token, *(service.token(f"user-{number}") for number in range(1, STREAMS_MAX))]


@pytest.fixture(autouse=True)
def _every_slot_comes_back(service, tokens, llm):
    yield
    llm.plays(STATUS_OK, *say("One"), *finish())
    fill_every_slot(service, tokens)


def fill_every_slot(service, tokens):
    """As many streams at once as there are slots, as soon as they are free; all of them to their end."""
    deadline = time.monotonic() + GUARD_SECONDS
    while True:
        with contextmanagers(StreamReader(service.port, token, QUESTION) for token in tokens) as readers:
            statuses = [reader.head().status for reader in readers]
            for reader in readers:
                reader.read_all()
            if statuses == [200] * STREAMS_MAX:
                return
        assert time.monotonic() < deadline, "a slot was not given back"
        time.sleep(0.05)


class contextmanagers:
    """All of them left at the end."""

    def __init__(self, readers):
        self._readers = list(readers)

    def __enter__(self):
        return self._readers

    def __exit__(self, *exc_info):
        for reader in self._readers:
            reader.leave()


def names(events):
    return [event.name for event in events]


def test_a_whole_stream_arrives_as_events_in_order_and_uncompressed(service, token, llm):
    llm.plays(STATUS_OK, *say("Every ", "six ", "months [1]."), *finish())
    with StreamReader(service.port, token, QUESTION) as reader:
        head = reader.head()
        assert (head.status, head.getheader("Content-Type")) == (200, "text/event-stream; charset=utf-8")
        assert (head.getheader("Content-Length"), head.getheader("Content-Encoding")) == (None, None)
        events = reader.read_all()
    assert names(events) == ["citations", "token", "token", "token", "done"]
    assert answer_of(events) == "Every six months [1]."
    assert events[0].data["citations"][0]["quote"] == TEXT


def test_a_token_is_there_while_the_model_still_thinks_about_the_next(service, token, llm):
    llm.plays(STATUS_OK, *say("Every "), 60)
    with StreamReader(service.port, token, QUESTION) as reader:
        assert names(reader.read_until(lambda events: len(events) == 2)) == ["citations", "token"]


def test_a_client_that_leaves_at_the_third_event_ends_the_models_work_before_a_heartbeat(service, token, llm):
    llm.plays(STATUS_OK, *say("Every ", "six "), 60)
    with StreamReader(service.port, token, QUESTION) as reader:
        reader.read_until(lambda events: len(events) == 3)
    # Of 60 s of silence: long before anything would have been sent.
    assert llm.gone.wait(HEARTBEAT_SECONDS)


def test_a_client_that_leaves_while_tokens_flow_ends_it_too(service, token, llm):
    llm.script = lambda request: itertools.chain([STATUS_OK], itertools.cycle([*say("word "), 0.01]))
    llm.gone.clear()
    with StreamReader(service.port, token, QUESTION) as reader:
        reader.read_until(lambda events: len(events) >= 3)
    assert llm.gone.wait(GUARD_SECONDS)


def test_a_silent_model_is_covered_by_heartbeats(service, token, llm):
    llm.plays(STATUS_OK, *say("Every "), HEARTBEAT_SECONDS + 2, *say("day."), *finish())
    with StreamReader(service.port, token, QUESTION) as reader:
        events = reader.read_all()
    assert events[2].comments == ("heartbeat",)
    assert names(events) == ["citations", "token", "token", "done"]


def test_a_reader_of_a_few_bytes_at_a_time_gets_everything_and_holds_up_nobody(service, token, llm):
    llm.plays(STATUS_OK, *say(*["word "] * 30), *finish())
    with StreamReader(service.port, token, QUESTION, receive_buffer_bytes=1024) as slow:
        for _ in range(40):
            assert slow.read(1)
            time.sleep(0.02)
        with StreamReader(service.port, token, QUESTION) as other:
            assert names(other.read_all())[-1] == "done"
        while slow.read(16):
            pass
        assert names(slow.read_all())[-1] == "done"


def test_a_reader_that_stops_reading_loses_its_stream_and_the_model_its_work(service, token, llm):
    # 16,000 events of some 60 bytes are more than all the buffers between here and there.
    llm.script = lambda request: itertools.chain([STATUS_OK, *say(*"x" * 16_000)], [60])
    llm.gone.clear()
    with StreamReader(service.port, token, QUESTION, receive_buffer_bytes=4096) as stopped:
        stopped.read(1)
        with StreamReader(service.port, token, {**QUESTION, "memory": False}) as other:
            assert len(other.read_until(lambda events: len(events) > 100)) > 100
        assert llm.gone.wait(GUARD_SECONDS)
        llm.gone.clear()
        assert llm.gone.wait(SEND_SECONDS + GUARD_SECONDS)


@contextlib.contextmanager
def export_that_stops(service, token):
    """GET /memory/export by a reader that takes its first 100 bytes, and no more than a small buffer after them."""
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.settimeout(GUARD_SECONDS)
        wire.connect(("127.0.0.1", service.port))
        head = f"GET /api/v1/memory/export HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
        wire.sendall(head.encode())
        yield wire.recv(100)


def test_readers_of_exports_that_stop_leave_the_worker_its_threads_and_lose_theirs(service, token, tokens):
    # 3 MB in lines of 60 KB are more than all the buffers between here and there.
    for first in range(0, 50, 10):
        documents = [
            {"doc_id": f"large/{number}", "text": "A bill.", "metadata": {"note": "x" * 60_000}}
            for number in range(first, first + 10)
        ]
        assert service.call("POST", "/api/v1/memory/index", token, {"documents": documents})[0] in (200, 201)
    with contextlib.ExitStack() as stack:
        heads = [stack.enter_context(export_that_stops(service, token)) for _ in range(STREAMS_MAX + 1)]
        assert [head.split(b" ")[1] for head in heads] == [b"200"] + [b"503"] * STREAMS_MAX
        assert service.call("GET", "/health/live", token)[0] == 200
        # There is one slot for exports, and the reader that has it keeps it no longer than a piece may take.
        assert service.call("GET", "/api/v1/memory/export", tokens[1])[0] == 503
        deadline = time.monotonic() + SEND_SECONDS + GUARD_SECONDS
        while service.call("GET", "/api/v1/memory/export", tokens[1])[0] == 503:
            assert time.monotonic() < deadline, "the slot was not given back"
            time.sleep(0.2)
        assert service.call("GET", "/health/live", token)[0] == 200


def test_one_stream_more_than_there_are_slots_is_503_and_says_when_to_come_back(service, token, tokens, llm):
    llm.plays(STATUS_OK, *say("Every "), 60)
    with contextmanagers(StreamReader(service.port, token, QUESTION) for token in tokens) as readers:
        for reader in readers:
            reader.read_until(lambda events: len(events) == 2)
        with StreamReader(service.port, tokens[-1], QUESTION) as refused:
            assert refused.head().status == 503
            assert int(refused.head().getheader("Retry-After")) > 0
        assert service.call("POST", "/api/v1/memory/query", token, {"query": "filter"})[0] == 200


def test_no_transaction_is_open_while_streams_are(service, token, tokens, llm):
    """Sampled by the superuser while queries go on beside them, so that there are sessions to see."""
    llm.plays(STATUS_OK, *say("Every "), 60)
    stop, statuses = threading.Event(), []

    def ask():
        while not stop.is_set():
            statuses.append(service.call("POST", "/api/v1/memory/query", token, {"query": "filter"})[0])

    with (
        service.superuser() as connection,
        contextmanagers(StreamReader(service.port, token, QUESTION) for token in tokens) as readers,
    ):
        for reader in readers:
            reader.read_until(lambda events: len(events) == 2)
        # Nothing but the streams: each connection of the service is idle, outside of any transaction.
        sessions = "SELECT state, xact_start IS NULL FROM pg_stat_activity WHERE usename = 'r1_app'"
        deadline = time.monotonic() + GUARD_SECONDS
        found = connection.execute(sessions).fetchall()
        while any(state != "idle" for state, _ in found):
            assert time.monotonic() < deadline, found
            found = connection.execute(sessions).fetchall()
        assert found
        assert all(is_outside for _, is_outside in found)

        asking = threading.Thread(target=ask)
        asking.start()
        lingering = 0
        for _ in range(100):
            lingering += connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE usename = 'r1_app'"
                " AND state LIKE 'idle in transaction%' AND state_change < now() - interval '1 second'"
            ).fetchone()[0]
            time.sleep(0.02)
        stop.set()
        asking.join(GUARD_SECONDS)
    assert lingering == 0
    assert set(statuses) == {200}
