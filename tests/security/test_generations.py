"""Several generations of one user's data key at once: every one opens, the newest seals, an unneeded one goes."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from django.db import connections

from memory import rls
from memory.errors import KeyUnavailable, StaleKeys
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.rls import bind_tenant, tenant_transaction
from memory.sealing import keyring
from memory.sealing.generations import add_generation, retire_generation
from memory.sealing.keyring import existing_profile, forget_profiles, open_user_id
from memory.sealing.profile import read_profile
from memory.security import InvalidTag
from memory.services import index as index_service
from memory.services import query as query_service
from memory.services.query import MemoryQuery, query_memory
from tests.db.memories import unit_vector
from tests.security.generations import add, live, of_rows, retire

pytestmark = pytest.mark.django_db(transaction=True)

TEXTS = {
    "boiler": "The heat pump in the cellar was serviced in March by Ravindra.",
    "passport": "The passport rests in the second drawer, under the notary's envelope.",
    "ferry": "The ferry to the island leaves at nine on weekdays and at ten on Sundays.",
    "roof": "The roof above the kitchen leaks when the wind comes from the west.",
    "bees": "Angela Merkel visited the beekeepers in Berlin on a warm day in May.",
    "piano": "The piano is to be tuned each spring before the heat of the summer comes.",
}
QUESTIONS = (
    "When was the heat pump serviced?",
    "Where is the passport?",
    "ferry on Sundays",
    'the "wind" and the roof',
)
LONG_AGO = "2025-03-01T08:00:00Z"


@pytest.fixture
def nobody_looks(monkeypatch):
    """This process does not hear of keys that change elsewhere: what it has cached stays."""
    monkeypatch.setattr(keyring._changes, "look", lambda connection: None)


def remember(person, *doc_ids: str, **fields) -> None:
    """Each in a call of its own, so that a text is embedded alone and its vector is always the same."""
    for doc_id in doc_ids:
        body = {"thread_id": "house", "created_at": LONG_AGO, "metadata": {"name": doc_id}, **fields}
        response = person.index(doc_id, TEXTS[doc_id], **body)
        assert response.status_code in (200, 201), response.content


def remember_mixed(person) -> None:
    """Two texts under each of three generations."""
    remember(person, "boiler", "bees")
    add(person)
    remember(person, "passport", "ferry")
    add(person)
    remember(person, "roof", "piano")


MIXED = {"boiler": (1,), "bees": (1,), "passport": (2,), "ferry": (2,), "roof": (3,), "piano": (3,)}


def answers(person) -> list[list[tuple]]:
    """What each question brings, and every score of it to the last bit."""
    found = []
    for question in QUESTIONS:
        query = MemoryQuery(question, top_k=10, rerank=False, decay_weight=0.0)
        with bind_tenant(person.user_hash):
            results = query_memory(query).results
        found.append(
            [(r.doc_id, r.chunk_index, r.text, r.metadata, r.vector, r.lexical, r.fused, r.bm25) for r in results]
        )
    return found


# -- Reading and writing


def test_what_was_sealed_before_still_opens_and_what_is_sealed_now_is_under_the_newest(alice, superuser):
    remember_mixed(alice)
    assert of_rows(superuser, alice) == MIXED
    for doc_id, text in TEXTS.items():
        found = alice.get(f"memory/documents/{doc_id}").json()
        assert (found["text"], found["metadata"]) == (text, {"name": doc_id})
    assert live(superuser, alice) == [1, 2, 3]


def test_answers_and_their_scores_are_the_same_whatever_generations_hold_the_rows(alice, superuser):
    remember(alice, *TEXTS)
    all_under_the_first = answers(alice)
    assert all(len(results) == len(TEXTS) for results in all_under_the_first)

    add(alice)
    assert answers(alice) == all_under_the_first
    remember(alice, "boiler", "ferry", "bees")
    assert set(of_rows(superuser, alice).values()) == {(1,), (2,)}
    assert answers(alice) == all_under_the_first

    remember(alice, *TEXTS)
    assert set(of_rows(superuser, alice).values()) == {(2,)}
    assert answers(alice) == all_under_the_first


def test_the_searchable_form_of_a_text_is_the_same_under_every_generation(alice, superuser):
    def searchable() -> tuple:
        return superuser.execute(
            "SELECT embedding::text, l.terms, l.frequencies FROM memory_chunks c JOIN memory_lexical_chunks l"
            " ON l.user_hash = c.user_hash AND l.chunk_id = c.id WHERE c.user_hash = %s",
            [alice.user_hash],
        ).fetchall()

    remember(alice, "ferry")
    before = searchable()
    add(alice)
    remember(alice, "ferry")
    assert searchable() == before and len(before) == 1


def test_a_question_may_be_narrowed_and_quote_across_generations(alice):
    remember_mixed(alice)
    found = alice.query("the", top_k=10, thread_id="house", source="api").json()["results"]
    assert {result["doc_id"] for result in found} == set(TEXTS)
    for phrase, doc_id in (("in the cellar", "boiler"), ("in the second", "passport"), ("heat of the", "piano")):
        assert alice.query(f'the "{phrase}"', top_k=10).json()["results"][0]["doc_id"] == doc_id


def test_an_export_has_the_documents_of_every_generation(alice):
    remember_mixed(alice)
    exported = alice.get("memory/export")
    lines = [json.loads(line) for line in b"".join(exported.streaming_content).splitlines()]
    texts = {line["doc_id"]: line["text"] for line in lines if "doc_id" in line}
    assert texts == TEXTS


def test_entities_are_sealed_under_the_generation_that_their_row_names(alice, superuser):
    remember_mixed(alice)
    made = alice.post("memory/entities", {"thread_id": "house"})
    assert made.status_code == 200, made.content
    assert made.json()["stored"]
    assert of_rows(superuser, alice) == MIXED
    forget_profiles()
    results = alice.query("Who visited the beekeepers?", top_k=10).json()["results"]
    assert len(results) == len(TEXTS)
    [bees] = [result for result in results if result["doc_id"] == "bees"]
    assert bees["metadata"]["entities"]


def test_a_summary_of_rows_of_every_generation_is_kept_under_the_newest(alice, superuser):
    remember_mixed(alice)
    made = alice.post("memory/summarize", {"doc_ids": list(TEXTS)}).json()
    assert (made["covers"], made["degraded"]) == ({"documents": 6, "chunks": 6}, [])
    assert of_rows(superuser, alice)[made["doc_id"]] == (3,)
    assert alice.get(f"memory/documents/{made['doc_id']}").json()["text"] == made["summary"]
    # Made anew, it takes the place of the one under an older generation; a source replaced takes it along.
    add(alice)
    again = alice.post("memory/summarize", {"doc_ids": list(TEXTS)}).json()
    assert again["doc_id"] == made["doc_id"]
    assert of_rows(superuser, alice)[made["doc_id"]] == (4,)
    remember(alice, "boiler")
    assert made["doc_id"] not in of_rows(superuser, alice)


def test_a_document_is_written_anew_under_the_newest_and_deleted_under_any(alice, superuser):
    remember_mixed(alice)
    remember(alice, "boiler")
    assert of_rows(superuser, alice) == MIXED | {"boiler": (3,)}
    for doc_id in TEXTS:
        assert alice.delete(f"memory/documents/{doc_id}").status_code == 204
    assert of_rows(superuser, alice) == {}


# -- Replays


def send(person, key: str = "first-try", **body):
    fields = {"doc_id": "ferry", "text": TEXTS["ferry"], "created_at": LONG_AGO, **body}
    return person.post("memory/index", fields, **{"idempotency-key": key})


def test_a_request_repeated_after_new_generations_is_told_what_it_was_told(alice, superuser):
    first = send(alice)
    chunk_ids = alice.get("memory/documents/ferry").json()["chunk_ids"]
    for _ in range(2):
        add(alice)
        again = send(alice)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again["Idempotent-Replayed"] == "true"
    assert of_rows(superuser, alice) == {"ferry": (1,)}
    assert alice.get("memory/documents/ferry").json()["chunk_ids"] == chunk_ids


def test_another_request_under_a_key_of_an_older_generation_is_a_conflict(alice, superuser):
    send(alice)
    add(alice)
    response = send(alice, text="Another text.")
    assert (response.status_code, response.json()["code"]) == (409, "idempotency_conflict")
    assert alice.get("memory/documents/ferry").json()["text"] == TEXTS["ferry"]


def test_a_new_request_is_remembered_under_the_newest_generation(alice, superuser):
    send(alice, "one")
    add(alice)
    send(alice, "two", doc_id="another")
    rows = superuser.execute(
        "SELECT generation FROM memory_idempotency WHERE user_hash = %s ORDER BY created_at", [alice.user_hash]
    ).fetchall()
    assert rows == [(1,), (2,)]
    assert send(alice, "one")["Idempotent-Replayed"] == send(alice, "two", doc_id="another")["Idempotent-Replayed"]


# -- A generation that another process adds


def test_a_write_with_the_old_profile_cached_is_sealed_again_once_under_the_newest(
    alice, superuser, monkeypatch, nobody_looks
):
    remember(alice, "boiler")
    old = existing_profile(alice.user_hash)
    assert add(alice, forget=False) == 2
    assert existing_profile(alice.user_hash) is old, "the profile must still be cached for this test to mean anything"

    sealed_under, seal_document = [], index_service.seal_document

    def seal_and_tell(profile, *args):
        sealed_under.append(profile.generation)
        return seal_document(profile, *args)

    monkeypatch.setattr(index_service, "seal_document", seal_and_tell)
    remember(alice, "ferry")
    assert sealed_under == [1, 2]
    assert of_rows(superuser, alice) == {"boiler": (1,), "ferry": (2,)}


def test_a_question_with_the_old_profile_cached_is_searched_once_more(alice, monkeypatch, nobody_looks):
    remember(alice, "boiler")
    before = answers(alice)
    add(alice, forget=False)
    profiles, blind = [], query_service.lexical_query

    def blind_and_tell(*args):
        profiles.append(existing_profile(alice.user_hash).generation)
        return blind(*args)

    monkeypatch.setattr(query_service, "lexical_query", blind_and_tell)
    assert answers(alice) == before
    assert profiles == [1, 2] + [2] * (len(QUESTIONS) - 1)


def whole(response):
    """A streamed answer that has been read to its end."""
    assert b"".join(response.streaming_content)
    return response


READERS = {
    "document": lambda person: person.get("memory/documents/boiler"),
    "query": lambda person: person.query("heat pump"),
    "entities": lambda person: person.post("memory/entities", {"doc_id": "boiler"}),
    "summary": lambda person: person.post("memory/summarize", {"doc_ids": ["boiler"]}),
    "replay": send,
    "export": lambda person: whole(person.get("memory/export")),
}


@pytest.mark.parametrize("reader", READERS)
def test_whoever_reads_with_the_old_profile_cached_is_answered_as_ever(alice, reader, nobody_looks):
    remember(alice, "boiler")
    send(alice)
    old = existing_profile(alice.user_hash)
    add(alice, forget=False)
    assert existing_profile(alice.user_hash) is old
    response = READERS[reader](alice)
    assert response.status_code in (200, 201)
    assert existing_profile(alice.user_hash).generation == 2
    if reader == "replay":
        assert "Idempotent-Replayed" in response


def test_a_replay_with_the_old_profile_cached_is_neither_cut_nor_embedded_nor_charged(alice, monkeypatch, nobody_looks):
    send(alice)
    add(alice, forget=False)
    for step in ("chunks_of", "require_room_for", "charge_chunks", "seal_document"):
        monkeypatch.setattr(index_service, step, None)
    assert "Idempotent-Replayed" in send(alice)


def test_a_profile_that_changes_at_every_look_is_an_error_to_try_again(alice, superuser, monkeypatch, nobody_looks):
    remember(alice, "boiler")
    seal_document = index_service.seal_document

    def seal_then_rotate(profile, *args):
        document = seal_document(profile, *args)
        add(alice, forget=False)
        return document

    monkeypatch.setattr(index_service, "seal_document", seal_then_rotate)
    response = alice.index("ferry", TEXTS["ferry"])
    assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
    assert int(response.headers["Retry-After"]) >= 1
    assert (of_rows(superuser, alice), live(superuser, alice)) == ({"boiler": (1,)}, [1, 2, 3])


def test_writers_at_full_speed_among_new_generations_leave_only_rows_that_open(alice, superuser):
    """And nothing is sealed under a generation that was no longer the newest when it was stored."""
    remember(alice, "boiler")
    done = threading.Event()

    def in_thread(work):
        def run():
            try:
                return work()
            finally:
                connections.close_all()

        return run

    def write(worker: int) -> set[int]:
        statuses, number = set(), 0
        while number < 8 or not done.is_set():
            statuses.add(alice.index(f"doc-{worker}-{number % 3}", f"Text {worker} {number}.").status_code)
            number += 1
        return statuses

    def rotate() -> None:
        try:
            for _ in range(8):
                add(alice, forget=False)
                newest, named = superuser.execute(
                    "SELECT t.generation, (SELECT max(generation) FROM memory_chunks WHERE user_hash = t.user_hash)"
                    " FROM memory_tenants t WHERE t.user_hash = %s",
                    [alice.user_hash],
                ).fetchone()
                assert named <= newest
        finally:
            done.set()

    with ThreadPoolExecutor(3) as pool:
        work = [pool.submit(in_thread(lambda w=w: write(w))) for w in range(2)]
        pool.submit(in_thread(rotate)).result(timeout=60)
        statuses = set().union(*(future.result(timeout=60) for future in work))
    assert {200, 201} <= statuses <= {200, 201, 503}
    assert alice.index("last", "The last text.").status_code == 201
    assert of_rows(superuser, alice)["last"] == (9,)
    forget_profiles()
    for doc_id in of_rows(superuser, alice):
        assert alice.get(f"memory/documents/{doc_id}").status_code == 200


def test_two_generations_added_at_once_come_one_after_the_other(alice, superuser, monkeypatch):
    remember(alice, "boiler")
    # As in two processes: within one the second would wait for its turn before it asks the database.
    monkeypatch.setattr(rls, "writers_turn", lambda *_, **__: nullcontext())
    start = threading.Barrier(2, timeout=30)

    def add_one() -> int:
        try:
            start.wait()
            return add(alice, forget=False)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        added = [future.result(timeout=60) for future in [pool.submit(add_one), pool.submit(add_one)]]
    assert (sorted(added), live(superuser, alice)) == ([2, 3], [1, 2, 3])
    forget_profiles()
    remember(alice, "ferry")
    assert of_rows(superuser, alice) == {"boiler": (1,), "ferry": (3,)}


def test_a_transaction_that_is_rolled_back_adds_no_generation(alice, superuser):
    remember(alice, "boiler")
    before = existing_profile(alice.user_hash).version
    with pytest.raises(RuntimeError), tenant_transaction(alice.user_hash, write=True) as tx:
        add_generation(tx, read_profile(tx))
        tx.sync()
        raise RuntimeError
    forget_profiles()
    assert live(superuser, alice) == [1]
    assert existing_profile(alice.user_hash).version == before


def test_the_transaction_that_changes_generations_knows_of_it_itself(alice, superuser):
    remember(alice, "boiler")

    def store(doc_id: str) -> None:
        passages = [Slice(TEXTS[doc_id], 0, len(TEXTS[doc_id]))]
        index_memory_batch(connections["default"], alice.user_id, doc_id, "api", passages, unit_vector()[None, :])

    with tenant_transaction(alice.user_hash, write=True) as tx:
        old = read_profile(tx)
        add_generation(tx, old)
        with pytest.raises(StaleKeys):
            old.verify(tx)
        store("ferry")
        store("boiler")
        before = read_profile(tx)
        assert (before.generation, before.generations) == (2, (2, 1))
        assert retire_generation(tx, before, 1)
        assert read_profile(tx).generations == (2,)
        with pytest.raises(StaleKeys):
            before.verify(tx)
    assert (of_rows(superuser, alice), live(superuser, alice)) == ({"boiler": (2,), "ferry": (2,)}, [2])
    assert alice.get("memory/documents/ferry").json()["text"] == TEXTS["ferry"]


def test_a_profile_that_does_not_stand_adds_and_retires_nothing(alice, superuser, nobody_looks):
    remember(alice, "boiler")
    old = existing_profile(alice.user_hash)
    add(alice)
    for change in (add_generation, lambda tx, profile: retire_generation(tx, profile, 1)):
        with pytest.raises(StaleKeys), tenant_transaction(alice.user_hash, write=True) as tx:
            change(tx, old)
    assert live(superuser, alice) == [1, 2]


# -- Retiring


def age_answers(superuser, person, hours: int) -> None:
    changed = superuser.execute(
        "UPDATE memory_idempotency SET created_at = created_at - make_interval(hours => %s) WHERE user_hash = %s",
        [hours, person.user_hash],
    )
    assert changed.rowcount > 0


def test_a_generation_goes_once_no_document_or_chunk_names_it(alice, superuser):
    remember(alice, "boiler", "ferry")
    add(alice)
    assert not retire(alice, 1)
    remember(alice, "boiler")
    assert not retire(alice, 1), "the ferry is still under it"
    assert (live(superuser, alice), alice.get("memory/documents/ferry").status_code) == ([1, 2], 200)
    remember(alice, "ferry")
    before = existing_profile(alice.user_hash).version
    assert retire(alice, 1)
    assert live(superuser, alice) == [2]
    assert existing_profile(alice.user_hash).version != before
    assert answers(alice)[0][0][0] == "boiler"


@pytest.mark.parametrize("table", ["memory_chunks", "memory_documents"])
def test_one_row_of_either_table_is_enough_to_keep_a_generation(alice, superuser, table):
    remember(alice, "boiler")
    add(alice)
    remember(alice, "boiler")
    one = f"UPDATE {table} SET generation = %s WHERE user_hash = %s"
    assert superuser.execute(one, [1, alice.user_hash]).rowcount == 1
    assert not retire(alice, 1)
    superuser.execute(one, [2, alice.user_hash])
    assert retire(alice, 1)
    assert live(superuser, alice) == [2]


def test_an_answer_keeps_its_generation_for_its_24_hours_and_goes_with_it(alice, superuser):
    first = send(alice)
    add(alice)
    remember(alice, "ferry")
    assert not retire(alice, 1)
    age_answers(superuser, alice, 23)
    assert not retire(alice, 1)
    assert send(alice).content == first.content
    age_answers(superuser, alice, 2)
    assert retire(alice, 1)
    left = superuser.execute("SELECT count(*) FROM memory_idempotency WHERE user_hash = %s", [alice.user_hash])
    assert left.fetchone() == (0,)
    assert "Idempotent-Replayed" not in send(alice)


def test_the_newest_generation_cannot_be_retired(alice, superuser):
    remember(alice, "boiler")
    add(alice)
    alice.delete("memory/documents/boiler")
    with pytest.raises(KeyUnavailable):
        retire(alice, 2)
    assert live(superuser, alice) == [1, 2]


def test_a_middle_generation_may_go_before_an_older_one(alice, superuser):
    remember_mixed(alice)
    remember(alice, "passport", "ferry")
    assert retire(alice, 2)
    assert live(superuser, alice) == [1, 3]
    assert alice.get("memory/documents/boiler").json()["text"] == TEXTS["boiler"]
    assert add(alice) == 4


def test_a_row_of_a_retired_generation_never_opens_again(alice, superuser):
    remember(alice, "boiler")
    row = "SELECT text_cipher FROM memory_chunks WHERE user_hash = %s"
    [sealed_under_the_first] = superuser.execute(row, [alice.user_hash]).fetchone()
    add(alice)
    remember(alice, "boiler")
    assert retire(alice, 1)
    # As from a backup.
    superuser.execute(
        "UPDATE memory_chunks SET text_cipher = %s, generation = 1 WHERE user_hash = %s",
        [sealed_under_the_first, alice.user_hash],
    )
    response = alice.query("heat pump")
    assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
    assert alice.query("heat pump").json()["degraded"] == ["quarantined"]


def test_the_users_id_opens_under_the_newest_generation_and_no_other(alice, superuser):
    remember(alice, "boiler")
    for generation in (2, 3):
        add(alice)
        [blob] = superuser.execute(
            "SELECT user_id_cipher FROM memory_tenants WHERE user_hash = %s", [alice.user_hash]
        ).fetchone()
        profile = existing_profile(alice.user_hash)
        assert profile.generations == tuple(range(generation, 0, -1))
        assert open_user_id(profile.newest, blob) == alice.user_id
        for older in profile.generations[1:]:
            with pytest.raises(InvalidTag):
                open_user_id(profile.data_key(older), blob)


def test_no_two_generations_have_a_key_in_common(alice):
    remember_mixed(alice)
    profile = existing_profile(alice.user_hash)
    assert len({profile.data_key(generation)._key for generation in (1, 2, 3)}) == 3


# -- Erasing


def test_an_erasure_destroys_every_generation_and_every_row_under_it(alice, superuser):
    remember_mixed(alice)
    send(alice)
    receipt = alice.post("memory/erase", {"confirm": alice.user_id}).json()
    assert (receipt["erased_documents"], receipt["erased_chunks"], receipt["key_destroyed"]) == (6, 6, True)
    assert live(superuser, alice) == []
    assert of_rows(superuser, alice) == {}
    for table in ("memory_search_keys", "memory_idempotency", "memory_tenants", "memory_lexical_chunks"):
        left = superuser.execute(f"SELECT count(*) FROM {table} WHERE user_hash = %s", [alice.user_hash])
        assert left.fetchone() == (0,), table
    remember(alice, "ferry")
    assert of_rows(superuser, alice) == {"ferry": (1,)}


# -- Counting


def seals(superuser, person) -> tuple[int, dict[int, int]]:
    """What the tenant's row counts, and what each generation's does."""
    [newest] = superuser.execute(
        "SELECT seal_count FROM memory_tenants WHERE user_hash = %s", [person.user_hash]
    ).fetchone()
    of_keys = superuser.execute(
        "SELECT generation, seal_count FROM memory_data_keys WHERE user_hash = %s", [person.user_hash]
    )
    return newest, dict(of_keys.fetchall())


def test_seals_are_counted_for_each_generation(alice, superuser):
    remember(alice, "boiler", "ferry")
    assert seals(superuser, alice) == (1 + 2 * 4, {1: 0})  # user id; document, text, metadata, vector
    add(alice)
    assert seals(superuser, alice) == (1, {1: 9, 2: 0})
    remember(alice, "roof")
    send(alice)
    assert seals(superuser, alice) == (1 + 4 + 4 + 1, {1: 9, 2: 0})  # an answer
    add(alice)
    assert seals(superuser, alice) == (1, {1: 9, 2: 10, 3: 0})


def test_a_key_that_may_seal_no_more_is_relieved_by_a_new_generation(alice, superuser):
    remember(alice, "boiler")
    superuser.execute("UPDATE memory_tenants SET seal_count = %s WHERE user_hash = %s", [2**32, alice.user_hash])
    assert alice.index("ferry", TEXTS["ferry"]).status_code == 503
    add(alice)
    remember(alice, "ferry")
    assert of_rows(superuser, alice) == {"boiler": (1,), "ferry": (2,)}
    assert seals(superuser, alice)[1][1] == 2**32


def test_entities_written_to_rows_of_an_old_generation_are_counted(alice, superuser):
    """They are sealed under the key that their row names, so that is whose budget they use."""
    remember(alice, "bees")
    add(alice)
    assert alice.post("memory/entities", {"doc_id": "bees"}).status_code == 200
    assert seals(superuser, alice) == (1, {1: 5 + 1, 2: 0})


def test_an_old_generation_that_may_seal_no_more_seals_no_entities(alice, superuser):
    remember(alice, "bees")
    add(alice)
    spent = "UPDATE memory_data_keys SET seal_count = %s WHERE user_hash = %s AND generation = 1"
    superuser.execute(spent, [2**32, alice.user_hash])
    response = alice.post("memory/entities", {"doc_id": "bees"})
    assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
    assert "entities" not in alice.query("beekeepers").json()["results"][0]["metadata"]
    assert seals(superuser, alice) == (1, {1: 2**32, 2: 0})
    superuser.execute(spent, [2**32 - 1, alice.user_hash])
    assert alice.post("memory/entities", {"doc_id": "bees"}).status_code == 200
