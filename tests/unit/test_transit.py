"""The client of a key server against servers that are slow, silent, wrong, endless or gone, over real sockets."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from memory.errors import KeyUnavailable
from memory.keys.secret_files import SettingError
from memory.keys.transit import NotAuthentic, Transit, TransitAddress
from reranker.breaker import FIRST_OPEN_SECONDS, SLOW_CALLS_IN_A_ROW

KEY = bytes(range(32))
BLOB = bytes(60)


def answer(status: int, said: dict | bytes, *headers: str) -> bytes:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


WRAPPED = answer(200, {"data": {"ciphertext": f"vault:v7:{base64.b64encode(BLOB).decode()}", "key_version": 7}})
UNWRAPPED = answer(200, {"data": {"plaintext": base64.b64encode(KEY).decode()}})


class Server:
    """Takes each request whole, keeps it, and says `script`: pieces of bytes, and pauses in seconds."""

    def __init__(self, *script: bytes | float):
        self.script = script
        self.requests: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = connection.recv(65_536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            while len(body) < length:
                body += connection.recv(65_536)
            self.requests.append(head + b"\r\n\r\n" + body)
            try:
                for piece in self.script:
                    if isinstance(piece, bytes):
                        connection.sendall(piece)
                    else:
                        time.sleep(piece)
            except OSError:
                return


@contextmanager
def serving(*script: bytes | float) -> Iterator[Server]:
    server = Server(*script)
    try:
        yield server
    finally:
        server.close()


class Told(list):
    """What `observe` is told, as (operation, outcome)."""

    def __call__(self, operation: str, outcome: str, elapsed_ms: float) -> None:
        self.append((operation, outcome))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def transit_at(url: str, **options) -> Transit:
    address = TransitAddress(url, "transit", "r1-memory", lambda: "s.token", "team/a")
    return Transit(address, **options)


def unwrap(transit: Transit, seconds: float = 5) -> bytes:
    return transit.unwrap(7, BLOB, b"of alice", timeout_seconds=seconds)


def test_a_key_is_sent_to_be_wrapped_bound_to_its_context_and_comes_back_as_sixty_bytes():
    with serving(WRAPPED) as server:
        assert transit_at(server.url).wrap(KEY, b"of alice", timeout_seconds=5) == (7, BLOB)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/transit/encrypt/r1-memory HTTP/1.1\r\n")
    assert b"\r\nX-Vault-Token: s.token\r\n" in head
    assert b"\r\nX-Vault-Namespace: team/a" in head
    assert json.loads(body) == {
        "plaintext": base64.b64encode(KEY).decode(),
        "associated_data": base64.b64encode(b"of alice").decode(),
    }


def test_a_wrapped_key_is_sent_with_its_version_and_comes_back():
    with serving(UNWRAPPED) as server:
        assert unwrap(transit_at(server.url + "/")) == KEY
    said = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert said["ciphertext"] == "vault:v7:" + base64.b64encode(BLOB).decode()


def test_a_blob_that_does_not_open_is_no_outage():
    told = Told()
    with serving(answer(400, {"errors": ["cipher: message authentication failed"]})) as server:
        transit = transit_at(server.url, observe=told)
        for _ in range(5):
            with pytest.raises(NotAuthentic):
                unwrap(transit)
    assert told == [("decrypt", "damaged")] * 5


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ([answer(403, {"errors": ["permission denied"]})], "denied"),
        ([answer(503, {"errors": ["Vault is sealed"]})], "sealed"),
        ([answer(400, {"errors": ["invalid ciphertext: version is too new"]})], "refused"),
        ([answer(307, b"", "Location: http://127.0.0.1:1/")], "refused"),
        ([answer(200, {"data": None})], "refused"),
        ([answer(200, b"[]")], "refused"),
        ([answer(200, b"{not json")], "unreachable"),
        ([answer(200, b"x" * 100_000)], "unreachable"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"], "unreachable"),
        ([b"garbage\r\n\r\n"], "unreachable"),
        ([], "unreachable"),
        ([30.0], "timeout"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n", *([b" ", 0.05] * 300)], "timeout"),
    ],
    ids=["403", "503", "400", "redirect", "no data", "a list", "no JSON", "too long", "cut", "garbage", "nothing",
         "silence", "drops"],
)  # fmt: skip
def test_whatever_else_a_server_says_no_key_comes_of_it(script, outcome):
    told = Told()
    with serving(*script) as server:
        with pytest.raises(KeyUnavailable) as refused:
            unwrap(transit_at(server.url, observe=told), seconds=0.5)
    assert told == [("decrypt", outcome)]
    assert refused.value.retry_after_seconds >= 1


@pytest.mark.parametrize(
    "said",
    [{"ciphertext": "vault:v0:AAAA"}, {"ciphertext": "AAAA"}, {"ciphertext": None}, {}, {"ciphertext": "vault:v1:*"}],
)
def test_what_is_no_wrapped_key_is_not_stored_as_one(said):
    with serving(answer(200, {"data": said})) as server, pytest.raises(KeyUnavailable):
        transit_at(server.url).wrap(KEY, b"", timeout_seconds=5)


def test_a_server_that_hangs_is_left_alone_and_asked_again_once_it_answers():
    clock, told = Clock(), Told()
    with serving(30.0) as server:
        transit = transit_at(server.url, clock=clock, observe=told)
        for _ in range(SLOW_CALLS_IN_A_ROW + 5):
            with pytest.raises(KeyUnavailable):
                unwrap(transit, seconds=0.1)
        assert len(server.requests) == SLOW_CALLS_IN_A_ROW, "nobody waits for it"
        assert told[-1] == ("decrypt", "left_alone")
        server.script = (UNWRAPPED,)
        clock.now += FIRST_OPEN_SECONDS
        assert [unwrap(transit), unwrap(transit)] == [KEY, KEY]


@pytest.mark.parametrize(
    ("url", "mount", "name"),
    [
        ("key.example.org", "transit", "r1"),
        ("ftp://key.example.org", "transit", "r1"),
        ("https://key.example.org/?a=b", "transit", "r1"),
        ("https://key.example.org", "transit/../sys", "r1"),
        ("https://key.example.org", "", "r1"),
        ("https://key.example.org", "transit", "r1/../x"),
        ("https://key.example.org", "transit", ""),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_once(url, mount, name):
    with pytest.raises(SettingError) as refused:
        TransitAddress(url, mount, name, lambda: "")
    assert url not in str(refused.value)
