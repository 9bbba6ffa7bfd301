"""The second graph of a worker: made while a document is read, gone when nobody reads one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from memory.embedding import document_graph
from memory.embedding.document_graph import MANY, DocumentGraph
from tests.processors import on_two_processors

PATIENCE_SECONDS = 10


class Maker:
    """Makes stand-ins for graphs, each once `may_make` is set."""

    def __init__(self):
        self.made, self.may_make = 0, threading.Event()

    def __call__(self):
        assert self.may_make.wait(PATIENCE_SECONDS)
        self.made += 1
        return f"graph {self.made}"


def until(is_so) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.005)
    return is_so()


def test_it_is_made_for_many_texts_only_and_nobody_waits_for_it():
    maker = Maker()
    graph = DocumentGraph(maker)
    assert [graph.wanted() for _ in range(MANY - 1)] == [None] * (MANY - 1) and graph._holder is None
    assert [graph.wanted() for _ in range(20)] == [None] * 20, "it is not there yet, and texts are read meanwhile"
    maker.may_make.set()
    assert until(lambda: graph.wanted() == "graph 1")
    assert maker.made == 1


@on_two_processors
def test_its_threads_may_run_anywhere_whatever_the_thread_may_that_asks():
    masks, everywhere = [], os.sched_getaffinity(0)

    def ask() -> None:
        os.sched_setaffinity(0, {min(everywhere)})
        for _ in range(MANY):
            graph.wanted()

    graph = DocumentGraph(lambda: masks.append(os.sched_getaffinity(0)))
    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(PATIENCE_SECONDS)
    graph.close()
    assert masks == [everywhere]


def test_it_goes_when_no_document_is_read_and_comes_back_with_the_next(monkeypatch):
    monkeypatch.setattr(document_graph, "KEPT_SECONDS", 2.0)
    maker = Maker()
    maker.may_make.set()
    graph = DocumentGraph(maker)
    assert until(lambda: graph.wanted() == "graph 1")
    for _ in range(5):  # kept past its time by who goes on
        time.sleep(0.5)
        assert graph.wanted() == "graph 1"
    assert until(lambda: graph._holder is None)
    assert graph._graph is None
    assert until(lambda: graph.wanted() == "graph 2")


def test_texts_with_pauses_between_them_are_no_document(monkeypatch):
    monkeypatch.setattr(document_graph, "APART_SECONDS", 0.001)
    maker = Maker()
    graph = DocumentGraph(maker)
    for _ in range(3 * MANY):
        assert graph.wanted() is None and graph._holder is None
        time.sleep(0.005)


def test_where_it_cannot_be_made_the_log_says_so_once(caplog):
    def broken():
        raise MemoryError

    graph = DocumentGraph(broken)
    assert until(lambda: graph.wanted() or graph._is_over.is_set())
    assert all(graph.wanted() is None for _ in range(3 * MANY))
    assert [record.message for record in caplog.records] == ["documents are embedded by one thread, more slowly"]


def test_who_closes_it_waits_until_it_is_made_and_it_is_gone():
    maker = Maker()
    graph = DocumentGraph(maker)
    for _ in range(MANY):
        graph.wanted()
    threading.Timer(0.05, maker.may_make.set).start()
    graph.close()
    assert maker.made == 1 and graph._graph is None and graph._holder is None
    assert [graph.wanted() for _ in range(2 * MANY)] == [None] * (2 * MANY)
    assert maker.made == 1


# What a command does that embeds a document and ends: OpenVINO in a thread that nobody waits for aborts the process.
ENDS = """
import time
from memory.embedding.document_graph import MANY, DocumentGraph

def make():
    print("begun", flush=True)
    time.sleep(0.3)
    print("made", flush=True)

graph = DocumentGraph(make)
for _ in range(MANY):
    graph.wanted()
"""


def test_a_process_does_not_end_while_it_is_being_made():
    ended = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["begun", "made"]
