"""A made-up service for canary runs: its pages over real HTTP, its faults as a test wants them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from memory.rollout.decision import NEW, STABLE

TRAFFIC = 400  # requests of each variant between two looks at its metrics


class CanaryService:
    """Answers what a run asks. `fault`, once set, is what the new variant does from then on: errors, slow, denied,
    leak (of one tripwire user's word to the other; `leak query`: by that alone), deaf (no metrics)."""

    def __init__(self, percent: Callable[[], int]):
        """`percent` of users get the new variant."""
        self.percent = percent
        self.fault = ""
        self.alerts: list[dict] = []
        self.texts: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()
        registry = self._registry = CollectorRegistry()
        self._requests = Counter("memory_requests", "-", ["operation", "variant", "outcome"], registry=registry)
        self._latency = Histogram(
            "memory_query_latency_ms", "-", ["stage", "variant"], buckets=(100, 400, 500), registry=registry
        )
        self._auth = Histogram("auth_ms", "-", buckets=(25, 50), registry=registry)
        self._denied = Counter("memory_rls_denied", "-", registry=registry)
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, text = service.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
                raw = text.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_POST = do_DELETE = do_GET

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> CanaryService:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, str]:
        with self._lock:
            if path == "/metrics/memory":
                return (503, "") if self.fault == "deaf" else (200, self._page())
            if path == "/api/v2/alerts":
                self.alerts += json.loads(body)
            if path == "/api/v1/auth/check":
                return 204, ""
            return self._memory(method, path.removeprefix("/api/v1/memory/"), token, body)

    def _page(self) -> str:
        for variant in (NEW, STABLE):
            is_faulty = variant == NEW and self.percent() > 0
            if variant == NEW and not self.percent():
                continue
            failed = TRAFFIC // 20 if is_faulty and self.fault == "errors" else 0
            self._requests.labels("query", variant, "ok").inc(TRAFFIC - failed)
            self._requests.labels("query", variant, "server").inc(failed)
            for _ in range(TRAFFIC):
                self._auth.observe(1)
                self._latency.labels("total", variant).observe(450 if is_faulty and self.fault == "slow" else 50)
        if self.fault == "denied":
            self._denied.inc()
            self.fault = "was denied"
        return generate_latest(self._registry).decode()

    def _memory(self, method: str, path: str, token: str, body: bytes) -> tuple[int, str]:
        mine = self.texts.setdefault(token, {})
        readable = {doc: text for each in self.texts.values() for doc, text in each.items()}
        shown = readable if self.fault in ("leak", f"leak {path.partition('/')[0]}") else mine
        if path == "index":
            document = json.loads(body)
            mine[document["doc_id"]] = document["text"]
        elif path == "query":
            return 200, json.dumps({"variant": NEW, "results": list(shown.items())})
        elif path == "export":
            return 200, json.dumps(shown)
        elif path.startswith("documents/"):
            doc_id = path.removeprefix("documents/")
            if method == "DELETE":
                mine.pop(doc_id, None)
                return 204, ""
            return (200, json.dumps({"text": shown[doc_id]})) if doc_id in shown else (404, "{}")
        return 200, "{}"
