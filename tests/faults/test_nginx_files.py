"""The nginx files that go beside `r1-memory.conf`: TLS, plain HTTP, two deployments. A real nginx, real sockets."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import socket
import ssl
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.faults.nginx import Nginx, with_canary, with_redirect, with_tls

USERS = [f"user-{number}" for number in range(200)]


class Deployment(BaseHTTPRequestHandler):
    """Answers with its name, the path and the headers that reached it."""

    name = ""
    protocol_version = "HTTP/1.1"
    # Head and body leave together: the system would hold the second of two writes back for 40 ms.
    wbufsize = 65536

    def do_GET(self):
        body = json.dumps({"name": self.name, "path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextmanager
def deployment(name: str):
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Named", (Deployment,), {"name": name}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def stable():
    with deployment("stable") as port:
        yield port


@pytest.fixture(scope="module")
def canary():
    with deployment("canary") as port:
        yield port


@pytest.fixture
def start(tmp_path):
    started = []

    def start(upstream_port: int, *changes) -> Nginx:
        nginx = Nginx(tmp_path / f"run-{len(started)}", upstream_port)
        for change in changes:
            change(nginx)
        nginx.start()
        started.append(nginx)
        return nginx

    yield start
    for nginx in started:
        nginx.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key) of localhost, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "fullchain.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "fullchain.pem", folder / "privkey.pem"


def ask(port: int, path: str = "/", *, context: ssl.SSLContext | None = None, **headers: str):
    """(status, headers, body) of a GET, over TLS where a context is given."""
    if context:
        connection = http.client.HTTPSConnection("localhost", port, timeout=15, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, response.headers, body


def serves(port: int, **headers: str) -> str:
    return json.loads(ask(port, **headers)[2])["name"]


def test_over_tls_the_service_is_told_https_and_nginxs_own_answers_say_hsts(start, stable, certificate):
    nginx = start(stable, lambda nginx: with_tls(nginx, *certificate))
    context = ssl.create_default_context(cafile=certificate[0])
    status, _, body = ask(nginx.port, "/a//b", context=context)
    answer = json.loads(body)
    assert (status, answer["path"], answer["headers"]["X-Forwarded-Proto"]) == (200, "/a//b", "https")
    status, headers, _ = ask(nginx.port, "/" + "x" * 100, context=context, X_Long="x" * 9000)
    assert (status, headers["Strict-Transport-Security"]) == (400, "max-age=31536000")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_speaks_http_2_and_no_version_before_1_2(start, stable, certificate):
    nginx = start(stable, lambda nginx: with_tls(nginx, *certificate))
    context = ssl.create_default_context(cafile=certificate[0])
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_connection(("127.0.0.1", nginx.port)) as wire:
        with context.wrap_socket(wire, server_hostname="localhost") as secure:
            assert (secure.selected_alpn_protocol(), secure.version()) == ("h2", "TLSv1.3")
    old = ssl.create_default_context(cafile=certificate[0])
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", nginx.port)) as wire, pytest.raises((ssl.SSLError, ConnectionError)):
        old.wrap_socket(wire, server_hostname="localhost")


def test_over_plain_http_no_answer_of_nginx_says_hsts(start, stable):
    nginx = start(stable)
    status, headers, _ = ask(nginx.port, X_Long="x" * 9000)
    assert (status, headers["Strict-Transport-Security"]) == (400, None)


def test_plain_http_beside_tls_takes_no_token_and_sends_on_only_who_reads_the_documents(start, stable, certificate):
    ports = []
    start(stable, lambda nginx: with_tls(nginx, *certificate), lambda nginx: ports.append(with_redirect(nginx)))
    status, _, body = ask(ports[0], "/api/v1/memory/stats", Authorization="Bearer a")
    assert (status, json.loads(body)["code"]) == (400, "bad_request")
    status, headers, _ = ask(ports[0], "/api/v1/docs", Host="memory.example.org")
    assert (status, headers["Location"]) == (308, "https://memory.example.org/api/v1/docs")


def test_a_user_stays_with_his_deployment_though_his_token_changes(start, stable, canary):
    nginx = start(stable, lambda nginx: with_canary(nginx, canary, percent=50))
    for user in USERS[:20]:
        served_by = {
            serves(nginx.port, X_R1_Sticky=user, Authorization=f"Bearer token-{number}-of-{user}")
            for number in range(5)
        }
        assert len(served_by) == 1


def test_without_the_header_a_token_stays_with_its_deployment_and_both_serve(start, stable, canary):
    nginx = start(stable, lambda nginx: with_canary(nginx, canary, percent=50))
    tokens = [f"Bearer {user}" for user in USERS[:40]]
    first = [serves(nginx.port, Authorization=token) for token in tokens]
    assert set(first) == {"stable", "canary"}
    assert first == [serves(nginx.port, Authorization=token) for token in tokens]


def test_a_larger_share_moves_nobody_back(start, stable, canary):
    chosen = []
    for percent in (5, 50):
        nginx = start(stable, lambda nginx, percent=percent: with_canary(nginx, canary, percent=percent))
        chosen.append({user for user in USERS if serves(nginx.port, X_R1_Sticky=user) == "canary"})
    few, many = chosen
    assert few and few < many
    # The hash gives these 200 users the same places each time.
    assert Counter(user in many for user in USERS)[True] in range(70, 131)


def test_what_chooses_the_deployment_does_not_reach_it(start, stable, canary):
    nginx = start(stable, lambda nginx: with_canary(nginx, canary, percent=50))
    reached = json.loads(ask(nginx.port, X_R1_Sticky="user-1")[2])["headers"]
    assert "X-R1-Sticky" not in reached
    assert "X-Request-ID" in reached
