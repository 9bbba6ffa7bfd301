"""The service behind the nginx configuration we ship: a real nginx, a real service, real sockets."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from contextlib import ExitStack

import pytest

from tests.faults.nginx import Nginx
from tests.faults.service import running
from tests.llm_server import STATUS_OK, LLMServer, finish, say
from tests.sse import StreamReader

TEXT = "The lighthouse keeper writes down the weather twice a day."
GUARD_SECONDS = 15


@pytest.fixture(scope="module")
def llm():
    with LLMServer() as server:
        yield server


@pytest.fixture(scope="module")
def service(llm):
    with running(MEMORY_LLM_BASE_URL=llm.base_url, MEMORY_LLM_STALL_SECONDS="60") as service:
        yield service


@pytest.fixture(scope="module")
def nginx(service, tmp_path_factory):
    nginx = Nginx(tmp_path_factory.mktemp("nginx") / "run", service.port)
    nginx.start()
    yield nginx
    nginx.stop()


@pytest.fixture(scope="module")
def token(service):
    return service.token("alice")


@pytest.fixture
def call(nginx, token):
    def call(method: str, path: str, body=None, **headers):
        """(status, headers, parsed body) through nginx; `path` goes out exactly as it is."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {token}"} | ({"Content-Type": "application/json"} if raw is not None else {})
        connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=60)
        connection.request(method, path, raw, sent | {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.getheader("Content-Type", "").partition(";")[0].endswith(("/json", "+json"))
        return response.status, response.headers, json.loads(content) if is_json and content else content

    return call


def index(call, doc_id: str, text: str = TEXT, **headers):
    return call("POST", "/api/v1/memory/index", {"doc_id": doc_id, "text": text}, **headers)


def test_the_shipped_file_is_one_that_nginx_accepts(nginx):
    checked = subprocess.run(nginx.command("-t"), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "warn" not in checked.stderr


def test_a_document_is_stored_found_and_read_back(call):
    assert index(call, "light/house")[0] in (200, 201)
    status, _, answer = call("POST", "/api/v1/memory/query", {"query": "Who writes down the weather?"})
    assert (status, answer["results"][0]["citation"]["quote"]) == (200, TEXT)
    assert call("GET", "/api/v1/memory/documents/light/house")[2]["text"] == TEXT


def test_an_encoded_slash_and_other_characters_of_a_document_id_arrive_as_they_were(call):
    index(call, "light/house")
    index(call, "50% off?#1 é")
    assert call("GET", "/api/v1/memory/documents/light%2Fhouse")[2]["doc_id"] == "light/house"
    assert call("GET", "/api/v1/memory/documents/50%25%20off%3F%231%20%C3%A9")[2]["doc_id"] == "50% off?#1 é"


@pytest.mark.parametrize("path", ["a//b", "a/../b", "./a", "a%2F%2Fb", "a/%2e%2e/b", "a/"])
def test_a_path_that_other_proxies_fold_reaches_the_service_and_is_refused_there(call, path):
    status, _, problem = call("GET", f"/api/v1/memory/documents/{path}")
    assert (status, problem["code"]) == (422, "invalid")


def test_a_body_of_exactly_the_limit_is_read_and_one_more_byte_is_the_services_413(call):
    frame = '{"doc_id": "exact", "metadata": {}, "text": ""}'
    body = (frame[:-2] + ("word " * 200_000)[: 1_000_000 - len(frame)] + '"}').encode()
    assert len(body) == 1_000_000
    status, _, problem = call("POST", "/api/v1/memory/index", body)
    assert (status, problem["code"]) == (422, "too_many_chunks")
    status, _, problem = call("POST", "/api/v1/memory/index", body + b" ")
    assert (status, problem["code"], problem["status"]) == (413, "payload_too_large", 413)


def test_a_body_far_over_the_limit_is_refused_by_nginx_in_the_same_words(call):
    status, headers, problem = call("POST", "/api/v1/memory/index", b"x" * 2_000_000)
    assert (status, problem["code"], problem["status"]) == (413, "payload_too_large", 413)
    assert headers["Content-Type"] == "application/problem+json"
    assert problem["request_id"] == headers["X-Request-ID"]


def test_no_body_is_written_to_disk(call, nginx):
    """Without the folders for its temporary files nginx could not go on with a body that it wanted to write."""
    folders = [nginx.folder / "body", nginx.folder / "proxy"]
    for folder in folders:
        folder.rmdir()
    try:
        text = "The sea was calm. " * 4_000
        assert index(call, "calm", text)[0] == 201
        assert call("GET", "/api/v1/memory/documents/calm")[2]["text"] == text
        assert call("POST", "/api/v1/memory/index", b" " * 1_000_000)[0] == 400
    finally:
        for folder in folders:
            folder.mkdir()


def test_no_path_stands_in_any_log(call, nginx):
    index(call, "canary-of-a-path")
    call("GET", "/api/v1/memory/documents/canary-of-a-path")
    call("GET", "/api/v1/memory/documents/canary-of-a-path/missing")
    logs = [path for path in nginx.folder.rglob("*.log") if path.is_file()]
    assert logs
    assert all("canary-of-a-path" not in path.read_text() for path in logs)


def test_headers_that_name_another_user_or_address_are_ignored(call):
    spoofed = {
        "X_User_Id": "bob", "X_User_Hash": "0" * 64, "X_Forwarded_User": "bob", "X_Remote_User": "bob",
        "X_Forwarded_For": "127.0.0.1", "X_Forwarded_Host": "evil.example", "Forwarded": "for=127.0.0.1",
    }  # fmt: skip
    assert index(call, "mine", **spoofed)[0] in (200, 201)
    assert call("GET", "/api/v1/memory/documents/mine")[2]["text"] == TEXT


def test_a_request_id_is_passed_on_where_it_is_one_and_made_where_it_is_not(call):
    assert call("GET", "/api/v1/auth/check", X_Request_ID="mine-1")[1]["X-Request-ID"] == "mine-1"
    assert call("GET", "/api/v1/auth/check", X_Request_ID="a b {")[1]["X-Request-ID"] not in ("", "a b {")
    assert len(call("GET", "/api/v1/auth/check")[1]["X-Request-ID"]) == 32


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/memory", "//metrics", "/%6detrics", "/x/../metrics", "/api/v1/metrics"]
)
def test_metrics_are_not_for_outside(call, service, path):
    assert service.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )
    status, _, body = call("GET", path)
    # By the token of metrics alone; this is a user's.
    assert status in (401, 404)
    assert b"memory_errors_total" not in (body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_stream_arrives_while_it_is_written(call, nginx, token, llm):
    index(call, "light/house")
    llm.plays(STATUS_OK, *say("Twice "), 60)
    with StreamReader(
        nginx.port, token, {"message": "When does the lighthouse keeper write down the weather?"}
    ) as reader:
        events = reader.read_until(lambda events: len(events) == 2)
        assert [event.name for event in events] == ["citations", "token"]
        assert reader.head().getheader("X-Accel-Buffering") is None
    # nginx closes its connection to the service when the client goes, and so the model's work ends.
    assert llm.gone.wait(GUARD_SECONDS)


def test_a_whole_stream_comes_to_its_end_and_the_connection_goes_on(call, nginx, token, llm):
    llm.plays(STATUS_OK, *say("Twice ", "a ", "day."), *finish())
    with StreamReader(
        nginx.port, token, {"message": "When does the lighthouse keeper write down the weather?"}
    ) as reader:
        assert [event.name for event in reader.read_all()] == ["citations", "token", "token", "token", "done"]
    assert call("GET", "/api/v1/auth/check")[0] == 204


def test_the_export_comes_through_as_lines(call):
    index(call, "light/house")
    status, _, body = call("GET", "/api/v1/memory/export")
    assert status == 200
    lines = [json.loads(line) for line in body.splitlines()]
    assert TEXT in [line.get("text") for line in lines]


def test_a_service_that_is_away_is_a_problem_document_of_ours(tmp_path, token):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nginx = Nginx(tmp_path / "run", nobody.getsockname()[1])
        nginx.start()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", nginx.port, timeout=30)
            connection.request("GET", "/api/v1/auth/check", headers={"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            assert (response.status, response.getheader("Content-Type")) == (503, "application/problem+json")
            assert json.loads(response.read())["code"] == "overloaded"
            assert response.getheader("Retry-After")
        finally:
            nginx.stop()


def test_a_head_that_nginx_refuses_is_a_problem_document(nginx):
    with socket.create_connection(("127.0.0.1", nginx.port), timeout=GUARD_SECONDS) as wire:
        wire.sendall(b"GET /api/v1/auth/check HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n")
        response = http.client.HTTPResponse(wire)
        response.begin()
        assert (response.status, response.getheader("Content-Type")) == (400, "application/problem+json")
        assert json.loads(response.read())["code"] == "bad_request"


def test_an_answer_of_two_megabytes_leaves_the_service_though_its_reader_has_stopped(tmp_path):
    """Behind nginx a server whose own socket keeps next to nothing, and in front of it a reader that never reads."""
    with socket.create_server(("127.0.0.1", 0)) as upstream, socket.socket() as reader:
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        upstream.settimeout(GUARD_SECONDS)
        nginx = Nginx(tmp_path / "run", upstream.getsockname()[1])
        shipped = nginx.folder / "r1-memory.conf"
        # Else the kernel might keep it all for nginx.
        shipped.write_text(shipped.read_text().replace(f":{nginx.port};", f":{nginx.port} sndbuf=16k;"))
        nginx.start()
        try:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", nginx.port))
            reader.sendall(b"GET /api/v1/memory/documents/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
            service, _ = upstream.accept()
            with service:
                service.settimeout(GUARD_SECONDS)
                assert service.recv(65536).startswith(b"GET /api/v1/memory/documents/a ")
                # What does not leave within the time raises TimeoutError.
                service.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000)
        finally:
            nginx.stop()


def test_slow_senders_hold_no_thread_of_the_service(call, nginx, token):
    """More half-sent requests than the service has threads, of heads and of bodies; others go on."""
    head = b"POST /api/v1/memory/query HTTP/1.1\r\nHost: localhost\r\n"
    begun = head + f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n".encode()
    index(call, "light/house")
    stop = threading.Event()
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", nginx.port))) for _ in range(90)]

        def drip():
            while not stop.wait(1):
                for wire in slow:
                    try:
                        wire.send(b"X")
                    except OSError:
                        continue

        for number, wire in enumerate(slow):
            wire.sendall(head if number % 2 else begun + b"Content-Length: 5000\r\n\r\n{")
        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for _ in range(5):
                assert call("POST", "/api/v1/memory/query", {"query": "weather"})[0] == 200
                time.sleep(0.2)
        finally:
            stop.set()
            dripping.join()


def test_one_address_has_no_more_than_its_share_of_connections(nginx, token):
    """Beyond it 503 with our document, while what was there before goes on."""
    request = f"GET /api/v1/auth/check HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n".encode()
    body = b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n"
    with ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", nginx.port))) for _ in range(330)]
        for wire in waiting:
            wire.settimeout(GUARD_SECONDS)
            wire.sendall(request.replace(b"GET", b"POST", 1) + body)
        answers = []
        for wire in waiting[-20:]:
            answers.append(wire.recv(4096))
        assert all(answer.startswith(b"HTTP/1.1 503") and b"overloaded" in answer for answer in answers)
