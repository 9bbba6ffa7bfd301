"""The socket to the client of a stream, as gunicorn hands it over (`gunicorn.socket`).

A blocking send to a client that has stopped reading never ends, and one that has gone is not noticed while there is
nothing to send. With another server, or in a test without one, there is no socket and all of this does nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket

from django.conf import settings

# One piece of at most so much must leave within MEMORY_SEND_SECONDS: a reader of less than 820 bytes a second is let
# go by default.
PIECE_BYTES = 16 * 1024
# What the kernel takes off a slow reader's hands, about twice this, and keeps in memory for it.
SEND_BUFFER_BYTES = 64 * 1024


class StreamClient:
    """`prepare()` before the first byte; `has_left()` any time; `restore()` at the end, as the connection may go on."""

    def __init__(self, connection: socket.socket | None):
        self._connection = connection
        self._timeout_seconds: float | None = None

    def prepare(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._timeout_seconds = self._connection.gettimeout()
                self._connection.settimeout(settings.MEMORY_SEND_SECONDS)
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def has_left(self) -> bool:
        """The client, or the proxy for it, has closed or reset the connection. Never waits."""
        if self._connection is None:
            return False
        try:
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            return bool(poll.poll(0)) and self._connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def restore(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(OSError):
                self._connection.settimeout(self._timeout_seconds)
            # From now on it is the server's, which may be serving its next request.
            self._connection = None
