"""A real Prometheus and Alertmanager at a real service of two workers: `make test-prometheus`.

The shipped files, with addresses of this test's own, and windows of seconds in place of minutes.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.bench.tiny_reranker import build
from deploy.bench.wire import Request, ask, mint_tokens
from deploy.grafana.render import render
from tests.faults.nginx import Nginx
from tests.faults.service import ROOT, Service, free_port, running

PROGRAMS = os.environ.get("R1_PROMETHEUS")
pytestmark = pytest.mark.skipif(not PROGRAMS, reason="needs Prometheus and Alertmanager: make test-prometheus")

SHIPPED = ROOT / "deploy/prometheus"
METRICS_TOKEN = "a scraper's own token, long and hard to guess 9f2c"
# In place of five minutes; scrapes come each second.
WINDOW_SECONDS = 20
PATIENCE_SECONDS = 90


def program(name: str) -> str:
    return str(Path(PROGRAMS or "") / name)


def checked(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@contextmanager
def started(*command: str, folder: Path, ready: str) -> Iterator[None]:
    """A program of its own until the block ends, once the address `ready` answers."""
    with open(folder / f"{Path(command[0]).name}.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: urllib.request.urlopen(ready, timeout=2).status == 200)
        yield
    finally:
        process.terminate()
        process.wait(30)


def wait_for(look) -> object:
    """What `look` gives, once it gives something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if found := look():
                return found
        except OSError:
            pass
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)


class Told(http.server.BaseHTTPRequestHandler):
    """Where Alertmanager sends what it has to say: (receiver, alert's name)."""

    told: list[tuple[str, str]] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.told += [(self.path.strip("/"), alert["labels"]["alertname"]) for alert in body["alerts"]]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("prometheus")


@pytest.fixture(scope="module")
def service(folder) -> Iterator[Service]:
    with running(
        WEB_CONCURRENCY="2", MEMORY_METRICS_TOKEN=METRICS_TOKEN, MEMORY_RATE_DEFAULT="off", MEMORY_RATE_QUERY="off",
        CROSS_ENCODER_MODEL=str(build(folder / "model")),
    ) as service:  # fmt: skip
        yield service


@pytest.fixture(scope="module")
def nginx(service, tmp_path_factory) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path_factory.mktemp("nginx") / "run", service.port)
    nginx.start()
    yield nginx
    nginx.stop()


@pytest.fixture(scope="module")
def load(service) -> Iterator[None]:
    """Users who ask, write and stream all the while; some send rubbish."""
    token, *_ = mint_tokens(service.var, ["watched"])
    stop = threading.Event()
    requests = [
        Request("POST", "memory/index", {"doc_id": "note", "text": "The heat pump was serviced in March."}),
        Request("POST", "memory/query", {"query": "When was the heat pump serviced?"}),
        Request("POST", "memory/query", {"query": "When?", "unknown": True}),
        Request("POST", "stream", {"message": "When was the heat pump serviced?"}),
        Request("GET", "memory/stats"),
    ]

    def run() -> None:
        while not stop.is_set():
            for request in requests:
                ask(service.port, request, token, timeout_seconds=30)
            stop.wait(0.05)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    stop.set()
    for thread in threads:
        thread.join()


@pytest.fixture(scope="module")
def told() -> Iterator[int]:
    """The port at which alerts arrive."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


@pytest.fixture(scope="module")
def alertmanager(folder, told) -> Iterator[int]:
    port = free_port()
    shipped = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text()
    (folder / "alertmanager.yml").write_text(
        shipped.replace("127.0.0.1:9095", f"127.0.0.1:{told}").replace("group_wait: 10s", "group_wait: 1s")
    )
    with started(
        program("prometheus-alertmanager"), f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/am",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
        folder=folder, ready=f"http://127.0.0.1:{port}/-/ready",
    ):  # fmt: skip
        yield port


@pytest.fixture(scope="module")
def prometheus(folder, service, nginx, alertmanager, load) -> Iterator[str]:
    """Its address."""
    (folder / "rules").mkdir()
    for rules in (SHIPPED / "rules").iterdir():
        text = rules.read_text().replace("[5m]", f"[{WINDOW_SECONDS}s]").replace("interval: 15s", "interval: 1s")
        (folder / "rules" / rules.name).write_text(re.sub(r"for: \w+", "for: 2s", text))
    (folder / "token").write_text(METRICS_TOKEN)
    config = (SHIPPED / "prometheus.yml").read_text()
    for shipped, here in (
        ("scrape_interval: 15s", "scrape_interval: 1s"),
        ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ("127.0.0.1:9093", f"127.0.0.1:{alertmanager}"),
        ('"127.0.0.1:8123"', f'"127.0.0.1:{service.port}", "127.0.0.1:{nginx.port}"'),
        ("/etc/prometheus/r1-metrics-token", str(folder / "token")),
    ):
        assert shipped in config
        config = config.replace(shipped, here)
    (folder / "prometheus.yml").write_text(config)
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with started(
        program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
        folder=folder, ready=f"{address}/-/ready",
    ):  # fmt: skip
        yield address


def value(prometheus: str, expression: str) -> list[dict]:
    query = urllib.request.quote(expression, safe="")
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?query={query}", timeout=10) as response:
        return json.load(response)["data"]["result"]


def test_the_shipped_files_are_good_and_each_alert_fires_where_it_should(folder):
    checked(program("promtool"), "check", "rules", *map(str, (SHIPPED / "rules").iterdir()))
    shipped = (SHIPPED / "prometheus.yml").read_text()
    (folder / "nobodys-token").write_text("x")
    (folder / "shipped.yml").write_text(
        shipped.replace("/etc/prometheus/r1-metrics-token", str(folder / "nobodys-token"))
        .replace("rules/*.yml", str(SHIPPED / "rules/*.yml"))
    )  # fmt: skip
    checked(program("promtool"), "check", "config", str(folder / "shipped.yml"))
    assert "SUCCESS" in checked(program("promtool"), "test", "rules", str(SHIPPED / "tests/alerts.yml"))
    checked(program("amtool"), "check-config", str(ROOT / "deploy/alertmanager/alertmanager.yml"))


def test_it_is_scraped_by_its_token_at_the_service_and_through_nginx_and_not_without(prometheus, nginx):
    up = wait_for(lambda: len(found := value(prometheus, "up == 1")) == 2 and found)
    assert {series["metric"]["job"] for series in up} == {"r1-memory"}
    for token in ("", "wrong"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{nginx.port}/metrics/memory", headers={"Authorization": f"Bearer {token}"}
        )
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=10)


def test_every_panel_of_the_dashboard_has_data(prometheus, service):
    service.flags("set", "RERANK_ENABLED", "false")
    time.sleep(4)
    service.flags("clear", "RERANK_ENABLED")

    deadline = time.monotonic() + PATIENCE_SECONDS
    page, empty = render(prometheus, seconds=60)
    while empty and time.monotonic() < deadline:
        time.sleep(2)
        page, empty = render(prometheus, seconds=60)
    out = ROOT / "var/dashboard.html"
    out.parent.mkdir(exist_ok=True)
    out.write_text(page)
    assert empty == []


def test_an_alert_of_a_real_denial_reaches_security_and_who_is_on_call(prometheus, service):
    assert value(prometheus, "ALERTS") == [] or {
        series["metric"]["alertname"] for series in value(prometheus, "ALERTS{severity='critical'}")
    } <= {"MemoryRerankSlow"}
    with service.superuser() as superuser:
        superuser.execute("REVOKE SELECT ON memory_documents FROM r1_app")
        try:
            wait_for(
                lambda: ("security", "MemoryRlsDenied") in Told.told and ("oncall", "MemoryRlsDenied") in Told.told
            )
        finally:
            superuser.execute("GRANT SELECT ON memory_documents TO r1_app")
