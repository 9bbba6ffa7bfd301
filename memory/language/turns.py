"""One thread that works for many users, in turn: whoever asks forty times waits for itself."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from memory.errors import ModelUnavailable, Overloaded, UserOverloaded
from reranker.fair_queue import FairQueue
from reranker.queue_meter import UNMEASURED, QueueMeter

logger = logging.getLogger(__name__)

# Of all users together; one has a quarter of it. A piece is some 2,000 tokens at most (`memory/language/entities.py`).
WAITING_TOKENS_MAX = 128_000
CHARS_PER_TOKEN = 5

T = TypeVar("T")


class _Piece(Generic[T]):
    """Work of a `FairQueue`: one piece of work is one text of `tokens`."""

    is_short = False
    kind = ""

    def __init__(self, work: Callable[[], T], user: str, deadline: float, tokens: int):
        self.work: Callable[[], T] | None = work
        self.user = user
        self.deadline = deadline
        self.tokens = [max(1, tokens)]
        self.waiting = [0]
        self.future: Future[T] = Future()
        self.admitted_at = time.monotonic()

    @property
    def unfinished_tokens(self) -> int:
        return self.tokens[0]

    def goes_with(self, kind: str) -> bool:
        return True


class FairThread:
    """A thread that takes one piece of work at a time, its users' in turn by tokens (`FairQueue`).

    At most WAITING_TOKENS_MAX wait. What was cancelled, or whose deadline has passed when its turn comes, is never
    begun. Whatever a piece raises is its caller's, and whatever else is raised does not end the thread.
    """

    def __init__(self, name: str, meter: QueueMeter = UNMEASURED):
        self._name = name
        self._meter = meter
        self._changed = threading.Condition()
        self._queue = self._new_queue()
        self._unfinished: set[_Piece[Any]] = set()
        self._thread: threading.Thread | None = None

    def submit(
        self, work: Callable[[], T], *, user: str = "", deadline: float = math.inf, tokens: int = 1
    ) -> Future[T]:
        """What `work()` gives; `deadline` is on the `time.monotonic()` clock, `tokens` what it costs.

        Raises Overloaded when too much waits, of all or of this user; a piece that comes too late has it in the future.
        """
        piece = _Piece(work, user, deadline, tokens)
        with self._changed:
            self._require_thread()
            cost = piece.unfinished_tokens
            is_over_share = self._queue.is_over_share(user, cost)
            if is_over_share or self._queue.is_full(cost):
                self._meter.refused()
                raise (UserOverloaded if is_over_share else Overloaded)(retry_after_seconds=1)
            self._queue.add(piece)
            self._unfinished.add(piece)
            self._meter.callers(+1)
            self._changed.notify()
        # Runs at once in whoever cancels, and after a piece is done, when there is nothing left to take out.
        piece.future.add_done_callback(lambda _: self._leave(piece))
        return piece.future

    def _leave(self, piece: _Piece[Any]) -> None:
        with self._changed:
            if piece in self._unfinished:
                self._unfinished.remove(piece)
                self._meter.callers(-1)
            if piece.waiting:
                piece.waiting.clear()
                self._queue.release(piece.user, piece.unfinished_tokens)
                self._queue.tidy()
                self._meter.waited(time.monotonic() - piece.admitted_at)
            piece.work = None

    def _new_queue(self) -> FairQueue[_Piece[Any]]:
        return FairQueue(WAITING_TOKENS_MAX, quantum_tokens=None, rotates=False)

    def _require_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._own, name=self._name, daemon=True)
            self._thread.start()

    # What the thread does.

    def _own(self) -> None:
        while True:
            try:
                self._turn()
            # A fault of ours, which may have left the counts wrong: it fails all who wait, and the thread goes on.
            except BaseException as error:
                self._meter.failed()
                logger.error("the queue of %s failed: %s", self._name, type(error).__name__)
                self._drop_all()

    def _turn(self) -> None:
        with self._changed:
            while not self._queue:
                self._changed.wait()
            taken = self._queue.take(1)
            for piece, _ in taken:
                self._queue.release(piece.user, piece.unfinished_tokens)
                self._meter.waited(time.monotonic() - piece.admitted_at)
        for piece, _ in taken:
            self._do(piece)

    def _do(self, piece: _Piece[T]) -> None:
        work = piece.work
        if time.monotonic() >= piece.deadline:
            self._meter.refused()
            if piece.future.set_running_or_notify_cancel():
                piece.future.set_exception(Overloaded(retry_after_seconds=2))
        elif work is not None and piece.future.set_running_or_notify_cancel():
            self._meter.batch(1)
            try:
                found = work()
            except BaseException as error:
                if not isinstance(error, Overloaded):
                    self._meter.failed()
                piece.future.set_exception(error)
            else:
                piece.future.set_result(found)

    def _drop_all(self) -> None:
        with self._changed:
            dropped, self._unfinished = self._unfinished, set()
            self._queue = self._new_queue()
            for piece in dropped:
                piece.waiting.clear()
            self._meter.callers(-len(dropped))
        for piece in dropped:
            if not piece.future.done():
                _fail(piece.future)


def _fail(future: Future[Any]) -> None:
    try:
        if future.running() or future.set_running_or_notify_cancel():
            future.set_exception(ModelUnavailable())
    except CancelledError:
        return
