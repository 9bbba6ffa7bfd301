"""The pool of request threads: who was idle last works next, and nothing else about it is new."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import wait
from contextlib import closing
from types import SimpleNamespace

import pytest

from r1site.warm_threads import NewestFirst, WarmThreads

THREADS = 6


@pytest.fixture
def pool():
    """All of whose threads have been made."""
    pool, all_at_once = WarmThreads(THREADS), threading.Barrier(THREADS)
    wait([pool.submit(all_at_once.wait, 30) for _ in range(THREADS)])
    with closing(SimpleNamespace(close=pool.shutdown)):
        yield pool


def test_one_who_asks_again_and_again_meets_few_threads(pool):
    # In turn each would have a sixth. A future is done a moment before its thread waits again: another may be the last.
    met = [pool.submit(threading.get_ident).result(30) for _ in range(200)]
    most = sorted(map(met.count, set(met)))[-2:]
    assert sum(most) > 100


def test_all_threads_work_where_there_is_work_for_all(pool):
    all_at_once = threading.Barrier(THREADS)
    waited = [pool.submit(lambda: (all_at_once.wait(30), threading.get_ident())[1]) for _ in range(THREADS * 5)]
    assert {each.result(30) for each in waited[:THREADS]} == {thread.ident for thread in pool._threads}
    assert len([each.result(30) for each in waited]) == THREADS * 5


def test_what_waits_is_taken_in_its_order_and_by_who_waited_least():
    given, taken, begun = NewestFirst(), [], threading.Semaphore(0)
    for item in "abc":
        given.put(item)
    assert given.qsize() == 3 and [given.get() for _ in "abc"] == ["a", "b", "c"]
    with pytest.raises(queue.Empty):
        given.get_nowait()

    def take(name: str) -> None:
        begun.release()
        taken.append((name, given.get()))

    threads = [threading.Thread(target=take, args=[name], daemon=True) for name in ("first", "second")]
    for number, thread in enumerate(threads, start=1):
        thread.start()
        begun.acquire(timeout=30)
        while len(given._waiting) < number:
            thread.join(0.001)
    for item, thread in zip("xy", reversed(threads), strict=True):
        given.put(item)
        thread.join(30)
    assert taken == [("second", "x"), ("first", "y")]


def test_a_pool_that_is_shut_down_ends_its_threads_after_what_was_given(pool):
    held = threading.Event()
    done = [pool.submit(held.wait, 30) for _ in range(THREADS * 2)]
    pool.shutdown(wait=False)
    held.set()
    assert all(each.result(30) for each in done)
    for thread in pool._threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in pool._threads)
