"""The client's socket as gunicorn writes to it: what a client does not take waits here, and in no thread."""

from __future__ import annotations

import select
import socket
import time
from typing import Any

# A client that reads has taken an answer by then, however large; who has not, gets the rest from the goodbyes' thread.
SEND_NOW_SECONDS = 0.1


class ClientSocket:
    """A blocking socket whose `sendall` waits SEND_NOW_SECONDS at most, and keeps the rest in `unsent`.

    With a time limit set, as streams do, it sends as any socket does: a stream waits for its reader. All else is the
    socket's own.
    """

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self.unsent = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def sendall(self, data: bytes) -> None:
        """Raises OSError where the connection is gone."""
        if self.unsent:
            self.unsent += data
        elif self._connection.gettimeout() is not None:
            self._connection.sendall(data)
        else:
            self.unsent += self._left_of(memoryview(data))

    def _left_of(self, data: memoryview) -> memoryview:
        until = time.monotonic() + SEND_NOW_SECONDS
        self._connection.setblocking(False)
        try:
            while data:
                try:
                    data = data[self._connection.send(data) :]
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self._connection, select.POLLOUT)
                    if not poll.poll(max(0.0, until - time.monotonic()) * 1_000):
                        break
            return data
        finally:
            self._connection.setblocking(True)
