"""gunicorn's threaded worker, with no thread for a client that only waits or says goodbye.

The gthread worker of gunicorn 27 gives each new connection a thread for up to 5 s before its first byte, reads headers
for as long as they drip, and ends every connection by waiting up to 2 s for the client, in the one loop that accepts.
A few dozen idle connections so stopped a worker for everybody. Here

1. a connection gets a thread when its first byte is there, for which it has FIRST_BYTE_MAX_SECONDS; where as many are
   open as may be, the one that has been silent longest goes;
2. its request line and headers must be whole within HEADERS_MAX_SECONDS;
3. goodbyes are said by one thread for all of them (r1site/goodbyes.py), and so is what leaves late: refusals of those
   who are refused over and over, and the rest of an answer that its client does not take (r1site/client_socket.py);
4. what the parser refuses is answered with a problem document, like everything else, and not with a page;
5. while no request waits for a thread, one stays a moment with the client that it has answered, whose next request
   then needs no hand-over from the loop: figures in deploy/bench/profile.md.

Headers that drip still hold a thread for that long: only a proxy that buffers requests keeps all of them away.
"""

from __future__ import annotations

import errno
import logging
import select
import selectors
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import TConn, ThreadWorker

from memory.admission.cutoff import Cutoff, reading_until
from memory.admission.deadline import arrived
from r1site.client_socket import ClientSocket
from r1site.goodbyes import AnswersLate, LateAnswer, answering_late, goodbyes, head_of
from r1site.warm_threads import WarmThreads

logger = logging.getLogger(__name__)

FIRST_BYTE_MAX_SECONDS = 5.0
HEADERS_MAX_SECONDS = 10.0
# A client that asks again does so within this, or goes back to the loop. A burst that has all other threads may wait
# so long for those that stay, which are at most this part of all.
STAY_SECONDS, STAYING_SHARE = 0.1, 0.25
# Where descriptors have run out and no silent connection has one: until the loop tries again.
NO_DESCRIPTOR_SECONDS = 0.02


class Connection(TConn):
    """A client's connection, whose end holds up nobody."""

    header_cutoff: Cutoff | None = None
    late_answer: LateAnswer | None = None
    arrived_at = 0.0

    def close(self, graceful: bool = False) -> None:
        if graceful:
            goodbyes().add(self.sock, self.late_answer)
        else:
            super().close()


class Worker(ThreadWorker):
    """`worker_class = "r1site.gunicorn_worker.Worker"`"""

    wsgi: Callable
    alive: bool
    tpool: WarmThreads

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._may_stay = threading.Semaphore(int(self.cfg.threads * STAYING_SHARE))

    def get_thread_pool(self) -> WarmThreads:
        return WarmThreads(self.cfg.threads)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi = answering_late(self.wsgi)

    def run(self) -> None:
        super().run()
        goodbyes().finish()

    def is_parent_alive(self) -> bool:
        # gunicorn's loop then ends of itself; the threads are to know.
        self.alive = self.alive and super().is_parent_alive()
        return self.alive

    def accept(self, listener) -> None:
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                return
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # No descriptor is left: the caller waits in the listener's queue for the longest silent one's.
                if not self._close_longest_silent():
                    time.sleep(NO_DESCRIPTOR_SECONDS)
                return
            raise
        self.nr_conns += 1
        # One fewer than gunicorn's own limit, at which it would accept nobody until some of them have gone.
        if self.nr_conns >= self.worker_connections:
            self._close_longest_silent()
        connection = Connection(self.cfg, client, address, listener.getsockname())
        connection.timeout = time.monotonic() + FIRST_BYTE_MAX_SECONDS
        self.pending_conns.append(connection)
        self.poller.register(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, connection))

    def _close_longest_silent(self) -> bool:
        """Of the connections that hold no thread: those that never spoke first, then those kept alive; if any is."""
        for silent in (self.pending_conns, self.keepalived_conns):
            if silent:
                connection = silent.popleft()
                self.poller.unregister(connection.sock)
                connection.close()
                self.nr_conns -= 1
                return True
        return False

    def _cap_keepalive(self, deadline) -> None:
        """At a graceful stop: who has not spoken yet is waited for no longer than who may speak again."""
        super()._cap_keepalive(deadline)
        for connection in self.pending_conns:
            connection.timeout = min(connection.timeout, deadline)

    def enqueue_req(self, conn) -> None:
        conn.arrived_at = time.monotonic()
        super().enqueue_req(conn)

    def handle(self, conn):
        while True:
            until = time.monotonic() + HEADERS_MAX_SECONDS
            with arrived(conn.arrived_at), reading_until(conn.sock, until) as conn.header_cutoff:
                goes_on = super().handle(conn)
            if goes_on is not True or not self._speaks_again(conn):
                return goes_on
            conn.arrived_at = time.monotonic()

    def _speaks_again(self, conn) -> bool:
        """Wait STAY_SECONDS for the connection's next request, or its end; False where the loop is to take it back.

        It is while anybody waits for a thread, also if the next request is there: that one goes behind them.
        """
        # What was read ahead is in no socket; the loop knows.
        if conn.parser.unreader.buf.getvalue() or not self._is_idle() or not self._may_stay.acquire(blocking=False):
            return False
        try:
            poll = select.poll()
            poll.register(conn.sock, select.POLLIN)
            return bool(poll.poll(STAY_SECONDS * 1_000)) and self._is_idle()
        finally:
            self._may_stay.release()

    def _is_idle(self) -> bool:
        """Whether nothing waits for this thread, a stop included."""
        return self.alive and not self.tpool.has_backlog()

    def handle_request(self, req, conn):
        conn.header_cutoff.cancel()
        # Whoever marks the body as lost says with it, in the answer's header, that the connection ends.
        req.body.end_connection = req.force_close
        connection, conn.sock = conn.sock, ClientSocket(conn.sock)
        try:
            goes_on = super().handle_request(req, conn)
            if conn.sock.unsent:
                conn.late_answer = LateAnswer(time.monotonic(), bytes(conn.sock.unsent))
                return False
            return goes_on
        except AnswersLate as late:
            conn.late_answer = late.answer
            return False
        finally:
            conn.sock = connection

    def handle_error(self, req, client, addr, exc):
        """Log as gunicorn does, and answer with its status in our form. Quotes nothing of the request."""
        page = _Page()
        super().handle_error(req, page, addr, exc)
        try:
            util.write_nonblock(client, _problem(page.status))
        except OSError:
            self.log.debug("Failed to send error message.")


class _Page:
    """Stands for the client's socket while gunicorn writes its page of HTML, of which only the status is wanted."""

    status = 500

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, page: bytes) -> None:
        self.status = int(page.split(maxsplit=2)[1])


def _problem(status: int) -> bytes:
    """The whole answer, after which the connection ends."""
    # Not above: the master imports this module, and Django is for the workers.
    from r1site.problems import server_refusal

    request_id = uuid.uuid4().hex
    answer = server_refusal(status, request_id)
    logger.warning("answered by the server itself with %d request_id=%s", answer.status_code, request_id)
    headers = [*answer.items(), ("Content-Length", str(len(answer.content)))]
    return head_of(f"{answer.status_code} {answer.reason_phrase}", headers) + answer.content
