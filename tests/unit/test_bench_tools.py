"""What benches are made of: arrivals that wait for nobody, chats with their questions, samples by stage."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deploy.bench.arrivals import BROKEN, Planned, http_request, run
from deploy.bench.chats import load_chats
from deploy.bench.loadtest import is_in_time
from deploy.bench.profile_query import OTHER, samples, stage_of

AT_ONCE = 6
WAIT_MAX_SECONDS = 30
LATE_SECONDS = 0.2


@contextmanager
def answering(answer):
    """The port of a server that has `answer(handler)` say the status, after which it ends the connection if None."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status = answer(self)
            if status is None:
                self.close_connection = True
                return
            body = json.dumps({"path": self.path}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def planned(count, path="memory/query"):
    return [Planned("query", http_request(path, "token", b"{}")) for _ in range(count)]


def test_a_kind_of_request_of_which_none_was_made_is_in_time():
    found = {kind: {} for kind in ("query", "index", "other")}
    assert is_in_time(found)
    assert is_in_time({**found, "query": {"waited": {"p95": 100.0}}})
    assert not is_in_time({**found, "query": {"waited": {"p95": 100.1}}})


def test_a_request_leaves_when_it_is_due_though_no_earlier_one_has_been_answered():
    everybody = threading.Barrier(AT_ONCE)

    def once_all_are_there(handler):
        everybody.wait(WAIT_MAX_SECONDS)
        return 200

    with answering(once_all_are_there) as port:
        answers = run(port, 100, planned(AT_ONCE))
    assert [answer.status for answer in answers] == [200] * AT_ONCE
    assert json.loads(answers[0].body) == {"path": "/api/v1/memory/query"}


def test_what_the_generator_was_late_counts_as_waiting(monkeypatch):
    async def oversleep(seconds):
        time.sleep(seconds + LATE_SECONDS)

    monkeypatch.setattr(asyncio, "sleep", oversleep)
    with answering(lambda handler: 200) as port:
        answers = run(port, 1, planned(1))
    assert answers[0].took_ms >= LATE_SECONDS * 1_000


def test_a_connection_is_used_again_and_one_that_broke_is_an_error_of_its_request_alone():
    ports = []

    def breaking_the_second(handler):
        ports.append(handler.client_address[1])
        return None if len(ports) == 2 else 200

    with answering(breaking_the_second) as port:
        answers = [run(port, 1_000, planned(1))[0] for _ in range(3)]
    assert [answer.status for answer in answers] == [200, BROKEN, 200]
    assert [answer.is_error for answer in answers] == [False, True, False]


def test_past_so_many_errors_no_more_requests_leave():
    with answering(lambda handler: 503) as port:
        answers = run(port, 50, planned(100), errors_max=3)
    assert len(answers) < 100
    assert all(answer.is_error for answer in answers)


@pytest.fixture
def chats_folder(tmp_path):
    turns = [{"chat": chat, "id": f"t{n}", "text": f"turn {n}"} for chat in (1, 2) for n in range(6)]
    questions = [
        {"chat": 1, "question": "early", "evidence": ["t0", "t2"]},
        {"chat": 1, "question": "late", "evidence": ["t1", "t5"]},
        {"chat": 1, "question": "unanswerable", "evidence": []},
        {"chat": 2, "question": "first", "evidence": ["t0"]},
        {"chat": 2, "question": "second", "evidence": ["t1"]},
    ]
    for name, rows in (("turns", turns), ("questions", questions)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path


def test_only_those_questions_are_asked_that_the_stored_turns_answer(chats_folder):
    first, second = load_chats(chats_folder, users=2, turns=4, more=3)
    assert (first.user, [question.text for question in first.questions]) == ("chat-2", ["first", "second"])
    assert [question.text for question in second.questions] == ["early"]
    assert second.questions[0].evidence == {turn.id for turn in second.turns if turn.text in ("turn 0", "turn 2")}


def test_turns_to_write_are_others_than_those_stored(chats_folder):
    [chat] = load_chats(chats_folder, users=1, turns=4, more=5)
    assert len(chat.more) == 5
    assert len({turn.id for turn in [*chat.turns, *chat.more]}) == 9


def test_too_few_chats_are_said(chats_folder):
    with pytest.raises(SystemExit, match="2 chats of 6 turns"):
        load_chats(chats_folder, users=3, turns=6)


@pytest.mark.parametrize(
    ("frames", "stage"),
    [
        (["site-packages/gunicorn/workers/gthread.py:handle"], "HTTP, gunicorn"),
        (["memory/services/query.py:query_memory", "memory/embedding/queue.py:embed", "lib/threading.py:wait"],
         "embedding, waited for"),
        (["memory/retrieval/search.py:candidates", "site-packages/psycopg/cursor.py:fetchall"], "SQL"),
        (["memory/api/serializers/query.py:validate", "site-packages/rest_framework/fields.py:run"],
         "body: JSON, validation"),
        (["site-packages/rest_framework/views.py:dispatch", "lib/json/encoder.py:encode"], "views, DRF"),
        (["lib/threading.py:wait"], OTHER),
    ],
)  # fmt: skip
def test_a_sample_counts_for_the_innermost_stage_that_is_known(frames, stage):
    assert (
        stage_of([("/" + path, function, "1") for path, _, function in (one.partition(":") for one in frames)]) == stage
    )


def test_only_threads_that_have_a_request_are_counted(tmp_path):
    request = "Worker.handle (/p/r1site/gunicorn_worker.py:113);get (/p/memory/services/query.py:90)"
    (tmp_path / "raw").write_text(
        f"{request} 3\nWorker.run (/p/r1site/gunicorn_worker.py:60);wait (/l/threading.py:1) 9\n"
    )
    [(frames, count)] = samples(tmp_path / "raw")
    assert (count, frames[-1]) == (3, ("/p/memory/services/query.py", "get", "90"))
