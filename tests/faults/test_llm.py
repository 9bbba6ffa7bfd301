"""A language model that is slow, silent, wrong, endless or gone, over real sockets."""

import gzip
import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from memory.errors import LanguageModelError
from memory.language import llm_stream
from memory.language.llm import LanguageModel, language_model
from memory.language.llm_breaker import USERS_MAX, ServerBreaker
from reranker.breaker import FIRST_OPEN_SECONDS, SLOW_CALLS_IN_A_ROW
from tests.faults.service import ROOT, free_port
from tests.llm_server import CUT, STATUS_CHUNKED, STATUS_OK, LLMServer, event, finish, say, status

# Enough for everybody's breaker to open.
TWO_USERS = ["ann", "bob"]
MESSAGES = [{"role": "user", "content": "Where is the canary word heliotrope?"}]


@pytest.fixture(scope="module")
def running():
    with LLMServer() as server:
        yield server


@pytest.fixture
def server(running):
    running.requests.clear()
    running.headers.clear()
    return running


def model_at(url: str, *, timeout_seconds: float = 20.0, stall_seconds: float = 10.0) -> LanguageModel:
    return LanguageModel(
        url, api_key="k" * 40, model="small", timeout_seconds=timeout_seconds, stall_seconds=stall_seconds
    )


def reason_of(model: LanguageModel, max_tokens: int = 100, user: str = "ann") -> str:
    with pytest.raises(LanguageModelError) as refusal:
        model.complete(MESSAGES, max_tokens=max_tokens, user=user)
    return refusal.value.reason


def says(model: LanguageModel, user: str = "ann") -> str:
    """What it answers, or the word for why it does not."""
    try:
        return model.complete(MESSAGES, max_tokens=100, user=user).text
    except LanguageModelError as error:
        return error.reason


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "language-model"]


def wait_until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _no_reader_is_left():
    yield
    wait_until(lambda: not readers())


def test_an_answer_is_its_deltas_with_the_reason_it_ended_and_the_servers_counts(server):
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    server.plays(STATUS_OK, say("The ", "", "héron ", "🪶"), finish("length", usage))
    answer = model_at(server.base_url).complete(MESSAGES, max_tokens=100, user="ann")
    assert (answer.text, answer.finish_reason) == ("The héron 🪶", "length")
    assert answer.usage == {"prompt_tokens": 12, "completion_tokens": 3}
    sent = server.requests[0]
    assert (sent["messages"], sent["model"], sent["max_tokens"]) == (MESSAGES, "small", 100)
    assert server.headers[0]["authorization"] == "Bearer " + "k" * 40


def test_deltas_arrive_while_the_server_still_writes(server):
    server.plays(STATUS_OK, say("one"), 30, say("two"), finish())
    with model_at(server.base_url, timeout_seconds=60, stall_seconds=60).stream(
        MESSAGES, max_tokens=10, user="ann"
    ) as stream:
        assert stream.poll(20) == "one"
        assert stream.poll(0.01) == ""


@pytest.mark.parametrize("before", [[], [STATUS_OK], [STATUS_OK, *say("one")]], ids=["head", "token", "middle"])
def test_closing_it_ends_the_connection_wherever_it_is(server, before):
    server.plays(*before, 60)
    stream = model_at(server.base_url, timeout_seconds=90, stall_seconds=90).stream(MESSAGES, max_tokens=10, user="ann")
    wait_until(lambda: server.requests)
    stream.poll(0.05)
    stream.close()
    assert server.gone.wait(10)
    assert stream.poll(None) is None


@pytest.mark.parametrize(
    "script",
    [
        [30],
        [STATUS_OK, 30],
        [STATUS_OK, *say("one"), 30],
        # Comments are no tokens: a server that only says that it is alive is silent.
        [STATUS_OK, *([b": alive\n\n", 0.05] * 200)],
        # Nor is a head that comes a byte at a time.
        list(itertools.chain.from_iterable((bytes([b]), 0.05) for b in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200)),
    ],
    ids=["no head", "no token", "midway", "comments", "a head in drops"],
)
def test_silence_is_stalled(server, script):
    server.plays(*script)
    assert reason_of(model_at(server.base_url, stall_seconds=0.3)) == "stalled"
    assert server.gone.wait(10)


def test_an_answer_that_goes_on_and_on_is_over_time(server):
    server.plays(STATUS_OK, *([*say("word "), 0.02] * 2000))
    assert reason_of(model_at(server.base_url, timeout_seconds=0.5), max_tokens=10_000) == "timeout"
    assert server.gone.wait(10)


class Clock:
    """The breaker's own, so that how long a call takes here decides nothing."""

    def __init__(self, model: LanguageModel):
        self.now = 0.0
        model._breaker = ServerBreaker(clock=lambda: self.now)


def test_a_server_that_hangs_is_left_alone_and_asked_again_once_it_answers(server):
    model = model_at(server.base_url, stall_seconds=0.3)
    clock = Clock(model)
    server.plays(60)
    assert [reason_of(model, user=user) for user in TWO_USERS] == ["stalled"] * SLOW_CALLS_IN_A_ROW
    asked = len(server.requests)
    assert {reason_of(model, user=f"user {number}") for number in range(20)} == {"unavailable"}
    assert len(server.requests) == asked, "nobody waited for it"
    server.plays(STATUS_OK, say("well"), finish())
    clock.now += FIRST_OPEN_SECONDS
    assert [says(model), says(model)] == ["well", "well"]


def test_a_user_for_whom_a_server_hangs_does_not_take_it_from_the_others(server):
    model = model_at(server.base_url, stall_seconds=0.3)
    clock = Clock(model)
    server.plays(60)
    assert {reason_of(model) for _ in range(SLOW_CALLS_IN_A_ROW)} == {"stalled"}
    server.plays(STATUS_OK, say("well"), finish())
    assert (says(model), says(model, user="bob")) == ("unavailable", "well")
    clock.now += FIRST_OPEN_SECONDS
    assert [says(model), says(model)] == ["well", "well"], "his own next call is the probe"


def test_no_number_of_one_users_hangs_counts_for_everybody(server):
    breaker = ServerBreaker(clock=lambda: 0.0)
    for _ in range(100):
        breaker.record("ann", hung=True)
        breaker.record("bob", hung=False)
    assert breaker.admit("ann") is None
    assert breaker.admit("bob") is not None


def test_hangs_of_however_many_users_are_remembered_in_bounded_room(server):
    breaker = ServerBreaker(clock=lambda: 0.0)
    for number in range(2 * USERS_MAX):
        breaker.record(f"user {number}", hung=True)
    assert len(breaker._users) == USERS_MAX


def test_only_one_call_finds_out_whether_a_server_hangs_still(server):
    model = model_at(server.base_url, stall_seconds=0.3)
    clock = Clock(model)
    server.plays(60)
    for user in TWO_USERS:
        reason_of(model, user=user)
    clock.now += FIRST_OPEN_SECONDS
    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(lambda _: reason_of(model), range(8)))
    assert sorted(reasons) == ["stalled"] + ["unavailable"] * 7


def that_hung(server, **limits: float) -> LanguageModel:
    """A model at a server that hung, so that its next call is the probe."""
    model = model_at(server.base_url, stall_seconds=0.3, **limits)
    server.plays(60)
    for user in TWO_USERS:
        reason_of(model, user=user)
    wait_until(lambda: model._breaker.seconds_until_probe() == 0)
    return model


def test_who_leaves_before_the_first_word_does_not_keep_it_from_the_others(server):
    model = that_hung(server)
    for _ in range(8):
        model.stream(MESSAGES, max_tokens=10, user="ann").close()
        assert model._breaker.seconds_until_probe() == 0
    server.plays(STATUS_OK, say("well"), finish())
    assert says(model) == "well"


def test_the_first_word_of_one_answer_lets_the_others_in_however_long_the_rest_takes(server):
    model = that_hung(server)
    server.plays(STATUS_OK, *([*say("word "), 0.05] * 400))
    with model.stream(MESSAGES, max_tokens=10_000, user="ann") as long:
        assert long.poll(None) == "word "
        server.plays(STATUS_OK, say("well"), finish())
        assert says(model) == "well"
        assert long.poll(None) == "word "


def test_a_probe_for_which_there_is_no_thread_leaves_the_next_call_to_be_one(server, monkeypatch):
    model = that_hung(server)
    with monkeypatch.context() as patch:
        patch.setattr(llm_stream.threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            model.stream(MESSAGES, max_tokens=10, user="ann")
    server.plays(STATUS_OK, say("well"), finish())
    assert says(model) == "well"


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_answers_that_are_too_long_for_their_time_do_not_keep_it_from_the_others(server):
    model = model_at(server.base_url, timeout_seconds=0.5)
    server.plays(STATUS_OK, *([*say("word "), 0.02] * 2000))
    assert {reason_of(model, max_tokens=10_000) for _ in range(SLOW_CALLS_IN_A_ROW + 1)} == {"timeout"}
    server.plays(STATUS_OK, say("well"), finish())
    assert says(model) == "well"


def test_refusals_and_clients_who_leave_do_not_keep_a_server_from_the_others(server):
    model = model_at(server.base_url)
    server.plays(status(500))
    assert {reason_of(model) for _ in range(12)} == {"refused"}
    server.plays(60)
    for _ in range(12):
        model.stream(MESSAGES, max_tokens=10, user="ann").close()
    server.plays(STATUS_OK, say("well"), finish())
    assert says(model) == "well"


@pytest.mark.parametrize("code", [400, 401, 404, 429, 500, 503])
def test_any_status_but_200_is_refused_and_not_tried_again(server, code):
    server.plays(status(code))
    assert reason_of(model_at(server.base_url)) == "refused"
    # 400 may be about the token counts that were asked for: those are asked for once.
    assert len(server.requests) == (2 if code == 400 else 1)


def test_a_redirect_is_refused_as_content_goes_to_one_address_only(server):
    with LLMServer() as elsewhere:
        server.plays(status(307, b"", f"Location: {elsewhere.base_url}/chat/completions"))
        assert reason_of(model_at(server.base_url)) == "refused"
        assert elsewhere.requests == []


def test_an_error_event_in_the_stream_is_refused(server):
    server.plays(STATUS_OK, say("one"), b'data: {"error": {"message": "out of memory"}}\n\n')
    assert reason_of(model_at(server.base_url)) == "refused"


@pytest.mark.parametrize(
    "script",
    [
        [STATUS_OK, b"data: {not json}\n\n"],
        [STATUS_OK, b"<html>Welcome</html>"],
        [STATUS_OK, b'data: {"choices": [{"delta": null}]}\n\n'],
        [STATUS_OK, b'data: {"choices": [{"delta": {"content": ["a"]}}]}\n\n'],
        [STATUS_OK, b"data: \xff\xfe\n\n"],
        [STATUS_OK, *finish()],
        [STATUS_OK, *say(" ", "\n"), *finish()],
        status(200, b'{"choices": [{"message": {"content": "not streamed"}}]}'),
        status(200, gzip.compress(b"data: 1\n\n"), "Content-Encoding: gzip"),
    ],
    ids=["json", "html", "no delta", "no text", "utf-8", "empty", "blank", "not streamed", "compressed"],
)
def test_what_is_no_stream_of_text_is_malformed(server, script):
    server.plays(*script)
    assert reason_of(model_at(server.base_url)) == "malformed"


@pytest.mark.parametrize(
    "script",
    [
        [CUT],
        [STATUS_CHUNKED, CUT],
        [STATUS_OK, *say("one"), 0.05, CUT],
        [STATUS_OK, *say("one")],
        [STATUS_CHUNKED, b"5\r\nda"],
    ],
    ids=["head", "token", "reset", "no end", "inside a chunk"],
)
def test_a_connection_that_is_cut_is_unreachable_and_never_a_short_answer(server, script):
    server.plays(*script)
    assert reason_of(model_at(server.base_url)) == "unreachable"


def test_a_server_that_is_not_there_is_unreachable():
    assert reason_of(model_at(f"http://127.0.0.1:{free_port()}/v1")) == "unreachable"


def test_an_answer_far_past_its_limit_is_too_long(server):
    server.script = lambda request: itertools.chain([STATUS_OK], itertools.cycle(say("word " * 20)))
    assert reason_of(model_at(server.base_url), max_tokens=50) == "too_long"
    assert server.gone.wait(10)


def test_one_event_without_an_end_is_too_long(server, monkeypatch):
    monkeypatch.setattr(llm_stream, "MAX_ANSWER_BYTES", 1_000_000)
    server.script = lambda request: itertools.chain([STATUS_OK, b"data: "], itertools.repeat(b"x" * 65536))
    assert reason_of(model_at(server.base_url)) == "too_long"
    assert server.gone.wait(10)


def test_a_server_that_does_not_know_token_counts_is_asked_without_them_from_then_on(server):
    def script(request):
        return status(422) if "stream_options" in request else [STATUS_OK, *say("yes"), *finish()]

    server.script = script
    model = model_at(server.base_url)
    assert [model.complete(MESSAGES, max_tokens=10, user="ann").usage for _ in range(2)] == [{}, {}]
    assert ["stream_options" in request for request in server.requests] == [True, False, False]


def test_wrong_counts_are_left_out(server):
    usage = {"prompt_tokens": "many", "completion_tokens": -1}
    server.plays(STATUS_OK, say("yes"), finish("eos_token", usage))
    answer = model_at(server.base_url).complete(MESSAGES, max_tokens=10, user="ann")
    assert (answer.usage, answer.finish_reason) == ({}, "stop")


def test_one_model_serves_many_callers_at_once(server):
    server.script = lambda request: [STATUS_OK, 0.2, *say(request["messages"][0]["content"]), *finish()]
    model, answers = model_at(server.base_url), {}

    def ask(n):
        answers[n] = model.complete([{"role": "user", "content": f"caller {n}"}], max_tokens=50, user=f"user {n}").text

    callers = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert answers == {n: f"caller {n}" for n in range(12)}


def test_without_an_address_there_is_no_model_and_with_one_it_is_made_once(settings):
    settings.MEMORY_LLM_BASE_URL = ""
    assert language_model() is None
    settings.MEMORY_LLM_BASE_URL = "http://127.0.0.1:9/v1"
    assert language_model() is language_model()


def test_reasons_come_without_content(server):
    server.plays(STATUS_OK, event({"delta": {"content": 5}}))
    with pytest.raises(LanguageModelError) as refusal:
        model_at(server.base_url).complete(MESSAGES, max_tokens=10, user="ann")
    assert str(refusal.value) == "The language model did not answer."


TALKATIVE = """
import logging, sys
import django; django.setup()
from memory.errors import LanguageModelError
from memory.language.llm import language_model
logging.getLogger("memory").debug("debugging is on")
try:
    language_model().complete([{"role": "user", "content": "heliotrope"}], max_tokens=10, user="ann")
except LanguageModelError as refusal:
    print(refusal.reason)
"""


@pytest.mark.parametrize("script", [[STATUS_OK, *say("heliotrope"), *finish()], status(500, b'{"a": "heliotrope"}')])
def test_neither_content_nor_key_is_logged_even_at_debug(server, script):
    """In a process of its own, as levels are set once, at its start."""
    server.plays(*script)
    done = subprocess.run(
        [sys.executable, "-c", TALKATIVE], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
        env={
            **os.environ, "DJANGO_SETTINGS_MODULE": "r1site.settings.test", "DJANGO_LOG_LEVEL": "DEBUG",
            "OPENAI_LOG": "debug", "MEMORY_LLM_BASE_URL": server.base_url, "MEMORY_LLM_API_KEY": "s3cret" * 8,
        },
    )  # fmt: skip
    assert len(server.requests) == 1
    assert "debugging is on" in done.stderr
    assert "heliotrope" not in done.stdout + done.stderr
    assert "s3cret" not in done.stdout + done.stderr
