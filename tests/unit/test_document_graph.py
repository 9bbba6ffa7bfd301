"""The second graph of a worker: made while a document is read, gone when nobody reads one."""

from __future__ import annotations

import threading
import time

import pytest

from memory.embedding import document_graph
from memory.embedding.document_graph import MANY, DocumentGraph

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


def test_it_goes_when_no_document_is_read_and_comes_back_with_the_next(monkeypatch):
    monkeypatch.setattr(document_graph, "KEPT_SECONDS", 1.0)
    maker = Maker()
    maker.may_make.set()
    graph = DocumentGraph(maker)
    assert until(lambda: graph.wanted() == "graph 1")
    for _ in range(20):  # kept past its time by who goes on
        time.sleep(0.06)
        assert graph.wanted() == "graph 1"
    assert until(lambda: graph._holder is None)
    assert graph._graph is None
    assert [graph.wanted() for _ in range(MANY - 1)] == [None] * (MANY - 1) and maker.made == 1
    assert until(lambda: graph.wanted() == "graph 2")


def test_texts_with_pauses_between_them_are_no_document(monkeypatch):
    monkeypatch.setattr(document_graph, "KEPT_SECONDS", 0.001)
    graph = DocumentGraph(lambda: pytest.fail("made one"))
    for _ in range(3 * MANY):
        assert graph.wanted() is None
        time.sleep(0.005)


def test_where_it_cannot_be_made_the_log_says_so_once(caplog):
    def broken():
        raise MemoryError

    graph = DocumentGraph(broken)
    assert until(lambda: graph.wanted() or not graph._can_be_made)
    assert all(graph.wanted() is None for _ in range(3 * MANY))
    assert [record.message for record in caplog.records] == ["documents are embedded by one thread, more slowly"]
