"""One thread that works for many users, in turn: whoever asks forty times waits for itself."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from memory.errors import Overloaded

WAITING_MAX = 64  # pieces of work of all users together

T = TypeVar("T")


@dataclass(eq=False)
class _Piece(Generic[T]):
    work: Callable[[], T]
    deadline: float
    future: Future[T] = field(default_factory=Future)


class FairThread:
    """A thread that takes one piece of work at a time: the first one of each user who has any, round and round.

    Of WAITING_MAX pieces that wait already, the newest one of the user with the most gives way to that of a user with
    fewer. What was cancelled, or whose deadline has passed when its turn comes, is never begun.
    """

    def __init__(self, name: str):
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: OrderedDict[str, deque[_Piece]] = OrderedDict()
        self._count = 0
        self._turns = 0  # given to the executor and not yet begun: one for each piece, and those of pieces that left

    def submit(self, work: Callable[[], T], *, user: str = "", deadline: float = math.inf) -> Future[T]:
        """What `work()` gives; `deadline` is on the `time.monotonic()` clock.

        Raises Overloaded when too many wait, here or, for a piece that gave way or came too late, in the future.
        """
        piece = _Piece(work, deadline)
        with self._lock:
            gave_way = self._make_room(user) if self._count >= WAITING_MAX else None
            self._waiting.setdefault(user, deque()).append(piece)
            self._count += 1
            if needs_turn := self._turns < self._count:
                self._turns += 1
        if gave_way is not None:
            _refuse(gave_way)
        if needs_turn:
            self._executor.submit(self._take_turn)
        # Runs at once in whoever cancels, and after a piece is done, when there is nothing left to take out.
        piece.future.add_done_callback(lambda _: self._leave(user, piece))
        return piece.future

    def _make_room(self, user: str) -> _Piece:
        most = max(self._waiting, key=lambda other: len(self._waiting[other]))
        if len(self._waiting[most]) <= len(self._waiting.get(user, ())) + 1:
            raise Overloaded(retry_after_seconds=1)
        self._count -= 1
        return self._waiting[most].pop()

    def _leave(self, user: str, piece: _Piece) -> None:
        with self._lock:
            pieces = self._waiting.get(user)
            if pieces is not None and piece in pieces:
                pieces.remove(piece)
                self._count -= 1
                if not pieces:
                    del self._waiting[user]

    def _take_turn(self) -> None:
        with self._lock:
            self._turns -= 1
            if not self._waiting:
                return
            user, pieces = next(iter(self._waiting.items()))
            piece = pieces.popleft()
            self._count -= 1
            if pieces:
                self._waiting.move_to_end(user)
            else:
                del self._waiting[user]
        if time.monotonic() >= piece.deadline:
            _refuse(piece)
        elif piece.future.set_running_or_notify_cancel():
            try:
                piece.future.set_result(piece.work())
            except BaseException as error:
                piece.future.set_exception(error)


def _refuse(piece: _Piece) -> None:
    if piece.future.set_running_or_notify_cancel():
        piece.future.set_exception(Overloaded(retry_after_seconds=2))
