"""A user's writers one after the other, before any of them takes a database connection.

PostgreSQL would queue them too, at the tenant's row, but each would hold one of the pool's few connections while it
waits: two dozen writers of one user would leave none to the others. Writers of one user in other workers still meet
at that row; there are as many of them as workers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from memory.admission.deadline import remaining_seconds
from memory.errors import UserOverloaded

# What a lock or a connection may take of a request's time.
WAIT_MAX_SECONDS = 1.5

_lock = threading.Lock()
# The turn of each user who is writing, and how many hold it or wait for it.
_turns: dict[str, tuple[threading.Lock, int]] = {}


@contextmanager
def writers_turn(user_hash: str, *, before_waiting: Callable[[], None]) -> Iterator[None]:
    """Inside the block no other writer of this user in this process is.

    Who has to wait calls `before_waiting` first, and waits WAIT_MAX_SECONDS at most, and not past the request's
    deadline; then it raises UserOverloaded.
    """
    with _lock:
        turn, users = _turns.get(user_hash) or (threading.Lock(), 0)
        _turns[user_hash] = (turn, users + 1)
    try:
        if not turn.acquire(blocking=False):
            before_waiting()
            if not turn.acquire(timeout=remaining_seconds(WAIT_MAX_SECONDS)):
                detail = "Other writes of this user are under way; try again shortly."
                raise UserOverloaded(detail, retry_after_seconds=1)
        try:
            yield
        finally:
            turn.release()
    finally:
        with _lock:
            turn, users = _turns[user_hash]
            if users > 1:
                _turns[user_hash] = (turn, users - 1)
            else:
                del _turns[user_hash]
