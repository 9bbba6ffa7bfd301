"""A language model's server for tests: real sockets, real chat-completions events, and every way to misbehave.

    with LLMServer() as server:
        server.plays(say("Hello"), finish())          # the next answers, until another script is given

A script is a list of steps: bytes to send, a number of seconds to be silent (the wait ends early when
the client leaves), or CUT. `server.requests` are the bodies received, `server.gone` is set when a
client was noticed to have left in the middle of an answer.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CUT = object()
STATUS_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
# Chunked, so that a cut is seen as one by the HTTP client itself; without it only the missing end tells.
STATUS_CHUNKED = STATUS_OK.replace(b"Connection: close", b"Transfer-Encoding: chunked\r\nConnection: close")


def event(choice: dict | None, **members) -> bytes:
    """One event of a chat completion."""
    document = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", **members}
    document["choices"] = [] if choice is None else [{"index": 0, "finish_reason": None, "delta": {}, **choice}]
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def say(*words: str) -> list[bytes]:
    return [event({"delta": {"content": word}}) for word in words]


def finish(reason: str = "stop", usage: dict | None = None) -> list[bytes]:
    last = [event({"finish_reason": reason})]
    return [*last, *([event(None, usage=usage)] if usage else []), b"data: [DONE]\n\n"]


def status(code: int, body: bytes = b'{"error": {"message": "no"}}', *headers: str) -> list[bytes]:
    """A whole answer that is no stream."""
    lines = [f"HTTP/1.1 {code} X", f"Content-Length: {len(body)}", "Content-Type: application/json", *headers]
    return ["\r\n".join([*lines, "Connection: close", "", ""]).encode() + body]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server: LLMServer = self.server.owner
        server.requests.append(json.loads(body))
        server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.close_connection = True
        try:
            for step in self._steps(server.script(server.requests[-1])):
                if step is CUT:
                    # A reset, not an orderly end.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if isinstance(step, bytes):
                    self.connection.sendall(step)
                elif self._left_within(step):
                    server.gone.set()
                    return
        except OSError:
            server.gone.set()

    def _steps(self, script: Iterable) -> Iterator:
        for step in script:
            yield from step if isinstance(step, list | tuple) else [step]

    def _left_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.server.owner.closing:
            readable, _, _ = select.select([self.connection], [], [], min(left, 0.1))
            if readable and not self.connection.recv(1):
                return True
        return False

    def log_message(self, *args):
        pass


class LLMServer:
    """On a port of its own, a thread a connection; `plays()` says what the answers are from now on."""

    def __init__(self):
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        self.gone = threading.Event()
        self.closing = False
        self.script = lambda request: [STATUS_OK, *say("Hello"), *finish()]
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def plays(self, *steps) -> None:
        """Each step as in a script, or a list of them. An answer begins with STATUS_OK unless it says otherwise."""
        self.gone.clear()
        self.script = lambda request: steps

    def __enter__(self) -> LLMServer:
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.closing = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
