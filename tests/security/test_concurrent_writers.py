"""Writers, deleters and readers of one document at once: always one whole version, and the counts are true."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from django.db import connections

from memory.embedding.process import get_embedder
from memory.errors import InvalidEmbedding, NotFound
from memory.indexing.seal import DocumentDraft
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.rls import bind_tenant, tenant_transaction
from memory.services.documents import get_document
from memory.services.forget import delete_document
from memory.services.index import index_document
from memory.services.query import MemoryQuery, query_memory

pytestmark = pytest.mark.django_db(transaction=True)

DIMENSION = 384
ROUNDS = 100
QUESTION = "When was the heat pump in the cellar serviced?"


def in_threads(*calls: Callable[[], object]) -> list:
    """Run the calls at once, each with its own database connection; raises what the first of them raised."""
    start = threading.Barrier(len(calls), timeout=30)

    def run(call):
        try:
            start.wait()
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=120) for future in [pool.submit(run, call) for call in calls]]


def version(name: str, chunks: int) -> list[Slice]:
    """Passages of a document each of whose words says which version it belongs to."""
    passages, start = [], 0
    for number in range(chunks):
        text = f"[{name} passage {number}]"
        passages.append(Slice(text, start, start + len(text)))
        start += len(text)
    return passages


def whole(passages: list[Slice]) -> str:
    return "".join(passage.text for passage in passages)


def vectors(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, DIMENSION))


def store(person, doc_id: str, passages: list[Slice], seed: int = 0) -> None:
    index_memory_batch(connections["default"], person.user_id, doc_id, "api", passages, vectors(len(passages), seed))


def read_back(person, doc_id: str) -> str:
    with bind_tenant(person.user_hash):
        return get_document(doc_id).text


def forget(person, doc_id: str) -> bool:
    try:
        with bind_tenant(person.user_hash):
            delete_document(doc_id)
    except NotFound:
        return False
    return True


def assert_counts_are_true(superuser, person) -> tuple[int, int]:
    """What memory_tenants and memory_documents claim, against the rows; (documents, chunks)."""
    claimed = superuser.execute(
        "SELECT document_count, chunk_count FROM memory_tenants WHERE user_hash = %s", [person.user_hash]
    ).fetchone()
    actual = superuser.execute(
        "SELECT (SELECT count(*) FROM memory_documents WHERE user_hash = %(user)s),"
        " (SELECT count(*) FROM memory_chunks WHERE user_hash = %(user)s)",
        {"user": person.user_hash},
    ).fetchone()
    assert claimed == actual
    wrong = superuser.execute(
        "SELECT d.doc_id FROM memory_documents d LEFT JOIN memory_chunks c USING (user_hash, doc_id)"
        " WHERE user_hash = %s GROUP BY d.doc_id, d.chunk_count"
        " HAVING d.chunk_count <> count(c.id) OR array_agg(c.chunk_index ORDER BY c.chunk_index)"
        " <> (SELECT array_agg(n) FROM generate_series(0, d.chunk_count - 1) n)",
        [person.user_hash],
    ).fetchall()
    assert wrong == []
    return actual


# Two writers


def test_of_two_versions_written_at_once_one_whole_version_survives_every_time(alice, superuser):
    ten, four = version("ten", 10), version("four", 4)
    survivors = []
    for number in range(ROUNDS):
        writers = [lambda: store(alice, "notes", ten, 10), lambda: store(alice, "notes", four, 4)]
        in_threads(*(writers if number % 2 else reversed(writers)))
        survivors.append(read_back(alice, "notes"))
        assert survivors[-1] in (whole(ten), whole(four))
        assert assert_counts_are_true(superuser, alice) == (1, 10 if survivors[-1] == whole(ten) else 4)
    assert len(survivors) == ROUNDS
    assert set(survivors) == {whole(ten), whole(four)}, "the writers never met: one of them always came last"


def test_first_versions_written_at_once_by_a_new_user_leave_one_whole_document(transactional_db, superuser):
    from tests.people import Person

    ten, four = version("ten", 10), version("four", 4)
    for number in range(20):
        newcomer = Person.new(f"newcomer{number}")
        in_threads(lambda who=newcomer: store(who, "notes", ten), lambda who=newcomer: store(who, "notes", four))
        assert read_back(newcomer, "notes") in (whole(ten), whole(four))
        assert assert_counts_are_true(superuser, newcomer)[0] == 1


def test_writers_of_different_documents_of_one_user_do_not_lose_each_others_counts(alice, superuser):
    passages = version("own", 3)

    def write(worker: int) -> None:
        for number in range(15):
            store(alice, f"doc-{worker}-{number % 5}", passages, number)

    in_threads(*[lambda worker=n: write(worker) for n in range(4)])
    assert assert_counts_are_true(superuser, alice) == (20, 60)


def test_two_transactions_that_replace_the_same_documents_in_opposite_order_both_succeed(alice, superuser):
    one, other = version("one", 5), version("other", 5)

    def write(doc_ids: tuple[str, str], passages) -> None:
        with tenant_transaction(alice.user_hash, write=True):
            for doc_id in doc_ids:
                store(alice, doc_id, passages)

    write(("a", "b"), one)
    for _ in range(30):
        in_threads(lambda: write(("a", "b"), one), lambda: write(("b", "a"), other))
        assert read_back(alice, "a") in (whole(one), whole(other))
        assert assert_counts_are_true(superuser, alice) == (2, 10)


# Writers and others


def test_a_writer_and_a_deleter_leave_all_of_the_document_or_nothing(alice, superuser):
    passages = version("kept", 6)
    outcomes = set()
    for number in range(60):
        store(alice, "notes", passages)
        # Of every four rounds the writer is late in one and the deleter in another, so that both orders are met.
        late = {2: (0.03, 0.0), 3: (0.0, 0.03)}.get(number % 4, (0.0, 0.0))
        calls = [
            lambda late=late: (time.sleep(late[0]), store(alice, "notes", passages)),
            lambda late=late: (time.sleep(late[1]), forget(alice, "notes")),
        ]
        in_threads(*(calls if number % 2 else reversed(calls)))
        present = assert_counts_are_true(superuser, alice)
        assert present in ((0, 0), (1, 6))
        outcomes.add(present)
        if present == (1, 6):
            assert read_back(alice, "notes") == whole(passages)
        else:
            with pytest.raises(NotFound):
                read_back(alice, "notes")
    assert outcomes == {(0, 0), (1, 6)}, "writer and deleter never met in both orders"


def test_of_two_deleters_one_finds_the_document_and_the_other_nothing(alice, superuser):
    for _ in range(20):
        store(alice, "notes", version("gone", 4))
        found = in_threads(lambda: forget(alice, "notes"), lambda: forget(alice, "notes"))
        assert sorted(found) == [False, True]
        assert assert_counts_are_true(superuser, alice) == (0, 0)


def test_a_reader_never_sees_half_a_document_while_it_is_replaced(alice):
    versions = {whole(passages): passages for passages in (version("ten", 10), version("four", 4), version("one", 1))}
    store(alice, "notes", next(iter(versions.values())))
    done = threading.Event()

    def keep_replacing() -> None:
        try:
            for number in range(80):
                store(alice, "notes", list(versions.values())[number % 3], number)
        finally:
            done.set()

    def keep_reading() -> list[str]:
        seen = []
        while not done.is_set():
            seen.append(read_back(alice, "notes"))
        return seen

    _, seen = in_threads(keep_replacing, keep_reading)
    assert set(seen) <= set(versions)
    assert len(set(seen)) > 1, "the reader never saw a replacement"


def test_a_search_never_mixes_two_versions_of_a_document(alice):
    ten, four = version("ten", 10), version("four", 4)
    store(alice, "notes", ten)
    done = threading.Event()

    def keep_replacing() -> None:
        try:
            for number in range(80):
                store(alice, "notes", four if number % 2 else ten, number)
        finally:
            done.set()

    def keep_asking() -> set[frozenset[str]]:
        answers = set()
        with bind_tenant(alice.user_hash):
            while not done.is_set():
                results = query_memory(MemoryQuery(QUESTION, top_k=24)).results
                answers.add(frozenset(result.text for result in results))
        return answers

    _, answers = in_threads(keep_replacing, keep_asking)
    assert answers <= {frozenset(p.text for p in ten), frozenset(p.text for p in four)}
    assert len(answers) == 2, "the searches never saw a replacement"


# A model gone wrong


@contextmanager
def model_output(change: Callable):
    """Every text that the loaded model reads comes out as `change(float32[1, d])[0]`."""
    reader = get_embedder().load()._reader
    read = reader.read
    reader.read = lambda texts: [change(row[None, :])[0] for row in read(texts)]
    try:
        yield
    finally:
        reader.read = read


def one_value(value: float):
    def change(rows):
        rows = rows.copy()
        rows[-1, 17] = value
        return rows

    return change


BAD_OUTPUTS = {
    "one NaN": one_value(float("nan")),
    "one infinity": one_value(float("inf")),
    "all NaN": lambda rows: rows * float("nan"),
    "all zero": lambda rows: rows * 0,
    "383 dimensions": lambda rows: rows[:, :383],
    "768 dimensions": lambda rows: np.tile(rows, 2),
}


@pytest.mark.parametrize("change", BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_a_vector_that_cannot_be_stored_fails_the_request_and_stores_nothing(alice, superuser, change):
    store(alice, "before", version("before", 2))
    before = assert_counts_are_true(superuser, alice)
    with model_output(change):
        indexed = alice.index("notes", "The heat pump was serviced in March.")
        replaced = alice.index("before", "The heat pump was serviced in March.")
        asked = alice.query(QUESTION)
    for response in (indexed, replaced, asked):
        assert (response.status_code, response.json()["code"]) == (500, "internal"), response.content
        assert "heat pump" not in response.content.decode()
    assert assert_counts_are_true(superuser, alice) == before == (1, 2)
    assert read_back(alice, "before") == whole(version("before", 2))
    assert alice.index("notes", "The heat pump was serviced in March.").status_code == 201


def test_a_first_write_with_a_bad_vector_makes_no_tenant(stranger, superuser):
    with model_output(BAD_OUTPUTS["one NaN"]), bind_tenant(stranger.user_hash):
        with pytest.raises(InvalidEmbedding):
            index_document(stranger.user_id, DocumentDraft("notes", "api", "The heat pump."))
    assert superuser.execute(
        "SELECT count(*) FROM memory_tenants WHERE user_hash = %s", [stranger.user_hash]
    ).fetchone() == (0,)


@pytest.mark.parametrize("spoilt", ["nan", "inf", "zero", "dimension", "rows"])
def test_vectors_brought_by_the_caller_are_refused_as_strictly(alice, superuser, spoilt):
    passages = version("own", 3)
    rows = vectors(3)
    if spoilt in ("nan", "inf"):
        rows[1, 5] = float(spoilt)
    elif spoilt == "zero":
        rows[2] = 0
    else:
        rows = rows[:, :383] if spoilt == "dimension" else rows[:2]
    store(alice, "before", passages)
    with pytest.raises(InvalidEmbedding):
        index_memory_batch(connections["default"], alice.user_id, "notes", "api", passages, rows)
    assert assert_counts_are_true(superuser, alice) == (1, 3)


# Two users


def test_two_users_with_the_same_doc_id_have_a_document_each(alice, bob, superuser):
    first, second = alice.index("notes", "Alice's own text."), bob.index("notes", "Bob's own text.")
    assert (first.status_code, second.status_code) == (201, 201)
    assert (read_back(alice, "notes"), read_back(bob, "notes")) == ("Alice's own text.", "Bob's own text.")
    assert bob.index("notes", "Bob's newer text.").status_code == 200
    assert bob.delete("memory/documents/notes").status_code == 204
    assert bob.get("memory/documents/notes").status_code == 404
    assert read_back(alice, "notes") == "Alice's own text."
    assert assert_counts_are_true(superuser, alice) == (1, 1)
    assert assert_counts_are_true(superuser, bob) == (0, 0)


def test_a_users_few_passages_are_all_found_beside_anothers_many_nearer_ones(alice, bob, superuser):
    topic = get_embedder().embed_query(QUESTION)

    def near_topic(rows: int, noise: float) -> np.ndarray:
        scatter = vectors(rows)
        return topic + noise * scatter / np.linalg.norm(scatter, axis=1, keepdims=True)

    crowd, decoys = near_topic(60, 0.1), near_topic(5, 1.0)
    cosines = [rows @ topic / np.linalg.norm(rows, axis=1) for rows in (crowd, decoys)]
    assert cosines[0].min() > cosines[1].max(), "the crowd must be nearer, or nothing could crowd out"
    index_memory_batch(connections["default"], alice.user_id, "crowd", "api", version("crowd", 60), crowd)
    index_memory_batch(connections["default"], bob.user_id, "decoys", "api", version("decoy", 5), decoys)
    assert assert_counts_are_true(superuser, alice) == (1, 60)

    answer = bob.query(QUESTION, top_k=5).json()
    assert sorted(result["text"] for result in answer["results"]) == [f"[decoy passage {n}]" for n in range(5)]
    assert answer["candidates"] == 5
    crowded = alice.query(QUESTION, top_k=50).json()
    assert len(crowded["results"]) == 50 and {result["doc_id"] for result in crowded["results"]} == {"crowd"}
