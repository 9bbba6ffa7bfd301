"""A sealed value opens only where it was put: moved, changed or under another key, the request fails closed.

Each test tampers as a superuser, who can do anything to rows but has no key.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import psycopg
import pytest
from django.db import connections
from pgvector import HalfVector
from prometheus_client import REGISTRY

from memory.errors import DecryptionFailed
from memory.indexing.seal import DocumentDraft
from memory.indexing.slices import Slice
from memory.indexing.write import index_memory_batch
from memory.rls import bind_tenant
from memory.sealing import columns as sealing
from memory.sealing import keyring, providers
from memory.sealing.keyring import forget_profiles, open_user_id
from memory.sealing.quarantine import Damage, quarantine
from memory.sealing.user_keys import DataKey
from memory.security import InvalidTag
from memory.services.index import index_document

pytestmark = pytest.mark.django_db(transaction=True)

HEATING = "The heat pump in the cellar was serviced in March by a very quiet engineer named Ravindra."
PASSPORT = "The passport rests in the second drawer under the green envelope of the notary Castellani."
QUESTION = "Where is the passport, and when was the heat pump serviced?"
# Of one length, so that no check of lengths stands in for the one of whose data this is.
assert len(HEATING) == len(PASSPORT)
SECRET_WORDS = ("cellar", "Ravindra", "drawer", "Castellani", "salamander")


@dataclass(frozen=True)
class Row:
    """One row of one user, as the superuser reaches it."""

    superuser: psycopg.Connection
    table: str
    user_hash: str
    doc_id: str | None = None
    chunk_index: int = 0

    @property
    def where(self) -> str:
        parts = ["user_hash = %(user_hash)s"]
        if self.doc_id is not None:
            parts.append("doc_id = %(doc_id)s")
            if self.table == "memory_chunks":
                parts.append("chunk_index = %(chunk_index)s")
        return " AND ".join(parts)

    @property
    def names(self) -> dict:
        return {"user_hash": self.user_hash, "doc_id": self.doc_id, "chunk_index": self.chunk_index}

    def __getitem__(self, column: str):
        [row] = self.superuser.execute(f"SELECT {column} FROM {self.table} WHERE {self.where}", self.names).fetchall()
        return row[0]

    def __setitem__(self, column: str, value) -> None:
        cast = "::halfvec" if column == "embedding" else ""
        sql = f"UPDATE {self.table} SET {column} = %(value)s{cast} WHERE {self.where}"
        changed = self.superuser.execute(sql, {**self.names, "value": value})
        assert changed.rowcount == 1, "there was no row to tamper with: the test would prove nothing"


def chunk(superuser, person, doc_id: str, chunk_index: int = 0) -> Row:
    return Row(superuser, "memory_chunks", person.user_hash, doc_id, chunk_index)


def document(superuser, person, doc_id: str) -> Row:
    return Row(superuser, "memory_documents", person.user_hash, doc_id)


def tenant(superuser, person) -> Row:
    return Row(superuser, "memory_tenants", person.user_hash)


def data_key(superuser, person) -> Row:
    return Row(superuser, "memory_data_keys", person.user_hash)


def search_key(superuser, person) -> Row:
    return Row(superuser, "memory_search_keys", person.user_hash)


def remember(person, **texts: str) -> None:
    for doc_id, text in texts.items():
        response = person.index(doc_id, text, metadata={"animal": "salamander"})
        assert response.status_code == 201, response.content


def swap(one: Row, other: Row, column: str) -> None:
    one[column], other[column] = other[column], one[column]


def flipped(value: bytes | str, bit: int = -3):
    """The value with one bit changed."""
    raw = bytearray(value.encode() if isinstance(value, str) else value)
    raw[bit // 8] ^= 1 << bit % 8
    return raw.decode() if isinstance(value, str) else bytes(raw)


def assert_fails_closed(response, status: int, code: str) -> None:
    """The right problem, and not one word of what anybody stored."""
    assert (response.status_code, response.json()["code"]) == (status, code), response.content
    assert not [word for word in SECRET_WORDS if word in response.content.decode()]


def failures(column: str) -> float:
    return REGISTRY.get_sample_value("memory_decrypt_failed_total", {"column": column}) or 0.0


def opened_key(person) -> DataKey:
    profile = keyring.existing_profile(person.user_hash)
    assert profile is not None
    return profile.newest


def clone(key: DataKey, *, user_hash: str | None = None, generation: int | None = None) -> DataKey:
    """The same data key under another name: what a thief of key material would hold."""
    return DataKey(user_hash or key.user_hash, generation or key.generation, key._key)


def origin_of(row: Row) -> sealing.Origin:
    return sealing.Origin(row["source"], row["thread_id"], row["created_at"], row["sequence"])


def place_of(row: Row) -> sealing.Place:
    where = row["id"], row["doc_id"], row["chunk_index"], row["char_start"], row["char_end"]
    return sealing.Place(*where, origin_of(row))


# Moved between users


def test_aad_binding_prevents_cross_tenant_decryption(alice, bob, superuser):
    remember(alice, heating=HEATING)
    remember(bob, heating=PASSPORT)
    mine, stolen = chunk(superuser, bob, "heating"), chunk(superuser, alice, "heating")
    moved = "id", "created_at", "char_start", "char_end", "text_cipher", "meta_cipher", "emb_cipher", "embedding"
    for column in moved:
        mine[column] = stolen[column]

    # Alice's own row, id and all, in Bob's hands: his key does not open it.
    assert_fails_closed(bob.query(QUESTION), 500, "decryption_failed")
    assert_fails_closed(bob.get("memory/documents/heating"), 500, "decryption_failed")
    assert mine["quarantined_at"] is not None

    # Given Alice's data key as well, it still is sealed for Alice.
    key = opened_key(alice)
    place, blob = place_of(mine), mine["text_cipher"]
    assert sealing.open_text(key, place, blob) == HEATING
    with pytest.raises(InvalidTag):
        sealing.open_text(clone(key, user_hash=bob.user_hash), place, blob)

    assert alice.query(QUESTION).json()["results"][0]["text"] == HEATING


def test_another_users_sealed_data_key_does_not_open(alice, bob, superuser):
    remember(alice, heating=HEATING)
    remember(bob, heating=PASSPORT)
    data_key(superuser, bob)["sealed_key"] = data_key(superuser, alice)["sealed_key"]
    # As long as his own key is in the cache, that is what opens and seals; hers never is.
    assert bob.get("memory/documents/heating").json()["text"] == PASSPORT
    forget_profiles()
    for _ in range(2):
        assert_fails_closed(bob.query(QUESTION), 500, "decryption_failed")
        assert_fails_closed(bob.get("memory/documents/heating"), 500, "decryption_failed")
        assert_fails_closed(bob.index("new", "salamander"), 500, "decryption_failed")
        forget_profiles()
    assert superuser.execute(
        "SELECT count(*) FROM memory_documents WHERE user_hash = %s", [bob.user_hash]
    ).fetchone() == (1,)


def test_without_the_associated_data_the_same_theft_succeeds(alice, bob, superuser, monkeypatch):
    """The mutation that shows what the tests above depend on."""
    for module in (keyring, providers, sealing):
        monkeypatch.setattr(module, "associated_data", lambda *fields: b"nothing")
    remember(alice, heating=HEATING)
    remember(bob, heating=PASSPORT)
    data_key(superuser, bob)["sealed_key"] = data_key(superuser, alice)["sealed_key"]
    for column in ("text_cipher", "meta_cipher"):
        chunk(superuser, bob, "heating")[column] = chunk(superuser, alice, "heating")[column]
    document(superuser, bob, "heating")["meta_cipher"] = document(superuser, alice, "heating")["meta_cipher"]
    forget_profiles()
    [result] = bob.query(QUESTION).json()["results"]
    assert result["text"] == HEATING


# Moved within one user


@pytest.mark.parametrize("column", ["text_cipher", "meta_cipher"])
def test_blobs_swapped_between_two_rows_of_one_user_do_not_open(alice, superuser, column):
    remember(alice, heating=HEATING, passport=PASSPORT)
    swap(chunk(superuser, alice, "heating"), chunk(superuser, alice, "passport"), column)
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
    answer = alice.query(QUESTION)
    assert (answer.status_code, answer.json()["results"], answer.json()["degraded"]) == (200, [], ["quarantined"])


def test_without_the_associated_data_a_swap_between_rows_is_believed(alice, superuser, monkeypatch):
    monkeypatch.setattr(sealing, "associated_data", lambda *fields: b"nothing")
    remember(alice, heating=HEATING, passport=PASSPORT)
    swap(chunk(superuser, alice, "heating"), chunk(superuser, alice, "passport"), "text_cipher")
    answer = alice.query(QUESTION).json()
    assert {result["doc_id"]: result["text"] for result in answer["results"]} == {
        "heating": PASSPORT, "passport": HEATING,
    }  # fmt: skip


def test_document_metadata_swapped_between_two_documents_does_not_open(alice, superuser):
    remember(alice, heating=HEATING, passport=PASSPORT)
    swap(document(superuser, alice, "heating"), document(superuser, alice, "passport"), "meta_cipher")
    assert_fails_closed(alice.get("memory/documents/heating"), 500, "decryption_failed")
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")


@pytest.mark.parametrize(
    ("into", "source"),
    [
        ("text_cipher", "meta_cipher"),
        ("text_cipher", "emb_cipher"),
        ("meta_cipher", "text_cipher"),
        ("meta_cipher", "emb_cipher"),
    ],
)
def test_a_blob_moved_to_another_column_of_its_row_does_not_open(alice, superuser, into, source):
    remember(alice, heating=HEATING)
    row = chunk(superuser, alice, "heating")
    row[into] = row[source]
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
    assert row["quarantined_at"] is not None


def test_the_column_is_bound_by_more_than_its_sub_key(alice, superuser):
    """Chunk and document metadata share a sub-key; their associated data alone tells them apart."""
    remember(alice, heating=HEATING)
    key = opened_key(alice)
    row, whole = chunk(superuser, alice, "heating"), document(superuser, alice, "heating")
    assert sealing.open_chunk_metadata(key, row["id"], row["meta_cipher"]) == {}
    mac, origin = bytes(whole["content_mac"]), origin_of(whole)
    opened = sealing.open_document_metadata(key, "heating", mac, origin, whole["meta_cipher"])
    assert opened == {"animal": "salamander"}
    with pytest.raises(InvalidTag):
        sealing.open_chunk_metadata(key, row["id"], whole["meta_cipher"])
    with pytest.raises(InvalidTag):
        sealing.open_document_metadata(key, "heating", mac, origin, row["meta_cipher"])


def test_a_blob_of_another_generation_does_not_open_even_under_the_same_data_key(alice, superuser):
    remember(alice, heating=HEATING)
    row = chunk(superuser, alice, "heating")
    next_generation = clone(opened_key(alice), generation=2)
    with pytest.raises(InvalidTag):
        sealing.open_text(next_generation, place_of(row), row["text_cipher"])
    row["text_cipher"] = sealing.seal_text(next_generation, place_of(row), HEATING)
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")


@pytest.mark.parametrize(
    ("column", "value"), [("doc_id", "forged"), ("chunk_index", 7), ("char_start", 3), ("char_end", 9_999)]
)
def test_what_a_citation_says_cannot_be_changed_in_the_row(alice, superuser, column, value):
    remember(alice, heating=HEATING)
    chunk(superuser, alice, "heating")[column] = value
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
    later = alice.query(QUESTION)
    assert (later.status_code, later.json()["degraded"]) == (200, ["quarantined"])


ORIGINS = [
    ("source", "chat"),
    ("thread_id", "another-thread"),
    ("thread_id", None),
    ("created_at", datetime(2020, 1, 1, tzinfo=UTC)),
    ("sequence", 7),
]


def remember_in_thread(person, doc_id: str, text: str, **fields) -> None:
    response = person.index(doc_id, text, thread_id="a-thread", source="mail", **fields)
    assert response.status_code == 201, response.content


@pytest.mark.parametrize(("column", "value"), ORIGINS)
def test_where_and_when_a_chunk_is_from_cannot_be_changed_in_the_row(alice, superuser, column, value):
    remember_in_thread(alice, "heating", HEATING)
    chunk(superuser, alice, "heating")[column] = value
    counted = failures("text_cipher")
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
    assert failures("text_cipher") == counted + 1
    later = alice.query(QUESTION)
    assert (later.status_code, later.json()["results"], later.json()["degraded"]) == (200, [], ["quarantined"])


@pytest.mark.parametrize(("column", "value"), ORIGINS)
def test_where_and_when_a_document_is_from_cannot_be_changed_in_its_row(alice, superuser, column, value):
    remember_in_thread(alice, "heating", HEATING)
    document(superuser, alice, "heating")[column] = value
    assert_fails_closed(alice.get("memory/documents/heating"), 500, "decryption_failed")
    assert chunk(superuser, alice, "heating")["quarantined_at"] is not None


@pytest.mark.parametrize(("column", "value"), ORIGINS)
def test_nor_in_a_document_and_its_chunks_together(alice, superuser, column, value):
    remember_in_thread(alice, "heating", HEATING)
    for row_of in (chunk, document):
        row_of(superuser, alice, "heating")[column] = value
    assert_fails_closed(alice.get("memory/documents/heating"), 500, "decryption_failed")
    assert chunk(superuser, alice, "heating")["quarantined_at"] is not None


def test_a_microsecond_is_bound_too(alice, superuser):
    remember_in_thread(alice, "heating", HEATING)
    row = chunk(superuser, alice, "heating")
    row["created_at"] += timedelta(microseconds=1)
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")


@pytest.mark.parametrize("column", ["source", "thread_id", "created_at", "sequence"])
@pytest.mark.parametrize("row_of", [chunk, document])
def test_origins_swapped_between_two_rows_of_one_user_do_not_open(alice, superuser, row_of, column):
    """Both rows are the user's own, and each value is one that he stored: only its place is wrong."""
    long_ago = "2021-06-01T12:00:00Z"
    assert alice.index("heating", HEATING, thread_id="first", source="mail", created_at=long_ago).status_code == 201
    assert alice.index("passport", PASSPORT, thread_id="second", source="chat").status_code == 201
    # Two documents of one call to the product have a sequence each; here one is sealed by hand.
    if column == "sequence":
        with bind_tenant(alice.user_hash):
            index_document(alice.user_id, DocumentDraft("passport", "chat", PASSPORT, "second", sequence=3))
    one, other = row_of(superuser, alice, "heating"), row_of(superuser, alice, "passport")
    assert one[column] != other[column]
    swap(one, other, column)
    if row_of is chunk:
        assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
    else:
        for doc_id in ("heating", "passport"):
            assert_fails_closed(alice.get(f"memory/documents/{doc_id}"), 500, "decryption_failed")
    for doc_id in ("heating", "passport"):
        assert chunk(superuser, alice, doc_id)["quarantined_at"] is not None


def test_metadata_of_an_earlier_version_of_the_document_does_not_open(alice, superuser):
    remember(alice, heating=HEATING)
    old = document(superuser, alice, "heating")["meta_cipher"]
    assert alice.index("heating", PASSPORT).status_code == 200
    document(superuser, alice, "heating")["meta_cipher"] = old
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")


def test_a_document_written_anew_is_not_quarantined_for_what_its_earlier_version_was(alice, superuser):
    remember(alice, heating=HEATING)
    earlier = chunk(superuser, alice, "heating")
    chunk_id, text, meta = earlier["id"], earlier["text_cipher"], document(superuser, alice, "heating")["meta_cipher"]
    assert alice.index("heating", PASSPORT).status_code == 200
    damages = [Damage("text_cipher", chunk_id, text), Damage("document_meta_cipher", "heating", meta)]
    quarantine(alice.user_hash, damages)
    assert chunk(superuser, alice, "heating")["quarantined_at"] is None


@pytest.mark.parametrize("first_hit", ["query", "document"])
def test_a_row_that_claims_a_generation_without_a_key_fails_closed(alice, superuser, first_hit):
    remember(alice, heating=HEATING)
    chunk(superuser, alice, "heating")["generation"] = 2
    hit = alice.query(QUESTION) if first_hit == "query" else alice.get("memory/documents/heating")
    assert_fails_closed(hit, 503, "key_unavailable")
    later = alice.query(QUESTION)
    assert (later.status_code, later.json()["degraded"]) == (200, ["quarantined"])


# One bit


@pytest.mark.parametrize("bit", [0, 12 * 8, -1], ids=["nonce", "ciphertext", "tag"])
@pytest.mark.parametrize(
    ("row_of", "column", "counted_as"),
    [
        (chunk, "text_cipher", "text_cipher"),
        (chunk, "meta_cipher", "meta_cipher"),
        (document, "meta_cipher", "document_meta_cipher"),
    ],
    ids=["text", "chunk metadata", "document metadata"],
)
def test_one_flipped_bit_fails_the_first_hit_and_quarantines_the_chunk(
    alice, bob, superuser, row_of: Callable[..., Row], column, counted_as, bit
):
    remember(alice, heating=HEATING, passport=PASSPORT)
    remember(bob, heating=HEATING)
    damaged = row_of(superuser, alice, "heating")
    damaged[column] = flipped(damaged[column], bit)
    counted = failures(counted_as)

    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
    assert failures(counted_as) == counted + 1
    assert chunk(superuser, alice, "heating")["quarantined_at"] is not None
    assert chunk(superuser, alice, "passport")["quarantined_at"] is None

    for _ in range(2):
        answer = alice.query(QUESTION)
        assert answer.status_code == 200
        assert [result["text"] for result in answer.json()["results"]] == [PASSPORT]
        assert answer.json()["degraded"] == ["quarantined"]
    assert failures(counted_as) == counted + 1
    assert bob.query(QUESTION).json()["degraded"] == []
    assert len(bob.query(QUESTION).json()["results"]) == 1


@pytest.mark.parametrize("row_of", [chunk, document], ids=["a chunk's text", "the document's metadata"])
def test_a_damaged_document_is_not_read_back_in_part(alice, superuser, row_of):
    remember(alice, heating=HEATING)
    damaged = row_of(superuser, alice, "heating")
    column = "text_cipher" if row_of is chunk else "meta_cipher"
    damaged[column] = flipped(damaged[column])
    counted_as = "text_cipher" if row_of is chunk else "document_meta_cipher"
    counted = failures(counted_as)
    assert_fails_closed(alice.get("memory/documents/heating"), 500, "decryption_failed")
    assert failures(counted_as) == counted + 1


def test_reading_a_damaged_document_back_quarantines_its_chunk_too(alice, superuser):
    remember(alice, heating=HEATING)
    damaged = chunk(superuser, alice, "heating")
    damaged["text_cipher"] = flipped(damaged["text_cipher"])
    assert_fails_closed(alice.get("memory/documents/heating"), 500, "decryption_failed")
    assert damaged["quarantined_at"] is not None


def test_damaged_document_metadata_fails_one_request_and_not_one_for_each_chunk(alice, superuser):
    passages = [Slice(f"passage {n} about the salamander", n * 30, n * 30 + 30) for n in range(5)]
    vectors = np.random.default_rng(1).normal(size=(5, 384))
    index_memory_batch(connections["default"], alice.user_id, "notes", "api", passages, vectors)
    damaged = document(superuser, alice, "notes")
    damaged["meta_cipher"] = flipped(damaged["meta_cipher"])
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
    assert alice.query(QUESTION).status_code == 200


def spoil(superuser, person, *, text: str, chunk_metadata: str, document_metadata: str, generation: str) -> None:
    """Damage each of these documents of one chunk in its own way."""
    for row, column in (
        (chunk(superuser, person, text), "text_cipher"),
        (chunk(superuser, person, chunk_metadata), "meta_cipher"),
        (document(superuser, person, document_metadata), "meta_cipher"),
    ):
        row[column] = flipped(row[column])
    chunk(superuser, person, generation)["generation"] = 2


COUNTED = ("text_cipher", "meta_cipher", "document_meta_cipher", "generation")


@pytest.mark.parametrize("question", [QUESTION, f'{QUESTION} "heat pump"'], ids=["a question", "with a quoted phrase"])
def test_rows_damaged_in_every_way_fail_one_query_together(alice, superuser, question):
    remember(alice, passport=PASSPORT, **{f"heating{n}": HEATING for n in range(5)})
    spoil(
        superuser, alice,
        text="heating0", chunk_metadata="heating1", document_metadata="heating2", generation="heating3",
    )  # fmt: skip
    counted = [failures(column) for column in COUNTED]
    assert_fails_closed(alice.query(question, top_k=6), 500, "decryption_failed")
    assert [failures(column) for column in COUNTED] == [before + 1 for before in counted]
    answer = alice.query(question, top_k=6)
    assert answer.status_code == 200
    assert {result["doc_id"] for result in answer.json()["results"]} == {"heating4", "passport"}
    assert answer.json()["degraded"] == ["quarantined"]


@pytest.mark.parametrize("phrase", ["", ' "heat pump"'], ids=["a question", "with a quoted phrase"])
def test_damage_beyond_where_phrases_are_looked_for_fails_the_same_query(alice, superuser, monkeypatch, phrase):
    for room in ("services.query", "retrieval.rank"):
        monkeypatch.setattr(f"memory.{room}.PHRASE_CANDIDATES", 2)
    names = [f"heating{n}" for n in range(6)]
    remember(alice, **dict.fromkeys(names, HEATING))
    for name in names[:5]:  # whichever way they rank, there are some on both sides of the second
        row = chunk(superuser, alice, name)
        row["text_cipher"] = flipped(row["text_cipher"])
    assert_fails_closed(alice.query(QUESTION + phrase, top_k=6), 500, "decryption_failed")
    answer = alice.query(QUESTION + phrase, top_k=6)
    assert answer.status_code == 200
    assert [result["doc_id"] for result in answer.json()["results"]] == ["heating5"]


def test_rows_whose_keys_are_missing_fail_one_query_together(alice, superuser):
    remember(alice, passport=PASSPORT, heating=HEATING, again=HEATING)
    for doc_id in ("heating", "again"):
        chunk(superuser, alice, doc_id)["generation"] = 2
    assert_fails_closed(alice.query(QUESTION), 503, "key_unavailable")
    answer = alice.query(QUESTION)
    assert [result["text"] for result in answer.json()["results"]] == [PASSPORT]


READERS = {
    "document": lambda alice: alice.get("memory/documents/notes"),
    "entities": lambda alice: alice.post("memory/entities", {"doc_id": "notes"}),
    "summary": lambda alice: alice.post("memory/summarize", {"doc_ids": ["notes"]}),
    "export": lambda alice: alice.get("memory/export"),
}


@pytest.mark.parametrize("reader", READERS)
def test_whoever_reads_a_document_quarantines_all_its_damaged_chunks_at_once(alice, superuser, reader):
    text = "".join(f"{n:03} the salamander slept under a stone. " for n in range(4))
    passages = [Slice(text[n * 40 : n * 40 + 40], n * 40, n * 40 + 40) for n in range(4)]
    vectors = np.random.default_rng(1).normal(size=(4, 384))
    index_memory_batch(connections["default"], alice.user_id, "notes", "api", passages, vectors)
    rows = [chunk(superuser, alice, "notes", index) for index in range(4)]
    for row in rows[:3]:
        row["text_cipher"] = flipped(row["text_cipher"])
    counted = failures("text_cipher")
    assert_fails_closed(READERS[reader](alice), 500, "decryption_failed")
    assert failures("text_cipher") == counted + 3
    assert [row["quarantined_at"] is not None for row in rows] == [True, True, True, False]


def test_an_export_quarantines_a_pages_damaged_documents_at_once(alice, superuser):
    remember(alice, heating=HEATING, passport=PASSPORT, stove=HEATING)
    for doc_id, row_of in (("heating", chunk), ("passport", document)):
        row = row_of(superuser, alice, doc_id)
        column = "text_cipher" if row_of is chunk else "meta_cipher"
        row[column] = flipped(row[column])
    assert_fails_closed(alice.get("memory/export"), 500, "decryption_failed")
    quarantined = {
        doc_id: chunk(superuser, alice, doc_id)["quarantined_at"] for doc_id in ("heating", "passport", "stove")
    }
    assert {doc_id for doc_id, since in quarantined.items() if since} == {"heating", "passport"}


def test_replacing_a_damaged_document_heals_it(alice, superuser):
    remember(alice, heating=HEATING)
    damaged = chunk(superuser, alice, "heating")
    damaged["text_cipher"] = flipped(damaged["text_cipher"])
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
    assert alice.index("heating", HEATING).status_code == 200
    answer = alice.query(QUESTION).json()
    assert (answer["results"][0]["text"], answer["degraded"]) == (HEATING, [])


def vector_in(row: Row) -> HalfVector:
    return HalfVector.from_binary(row["halfvec_send(embedding)"])


@pytest.mark.parametrize("bit", [32, 32 + 16 * 200 + 7, -1], ids=["first value", "a mantissa", "last value"])
def test_a_sealed_vector_says_whether_the_searchable_one_beside_it_was_changed(alice, superuser, bit):
    remember(alice, heating=HEATING)
    row, key = chunk(superuser, alice, "heating"), opened_key(alice)
    true = sealing.open_vector(key, row["id"], row["emb_cipher"], vector_in(row))
    assert np.linalg.norm(true) == pytest.approx(1.0, abs=1e-5)

    row["embedding"] = HalfVector.from_binary(flipped(row["halfvec_send(embedding)"], bit))
    with pytest.raises(InvalidTag):
        sealing.open_vector(key, row["id"], row["emb_cipher"], vector_in(row))


def test_a_flipped_bit_in_the_sealed_vector_is_found_and_hurts_no_answer(alice, superuser):
    remember(alice, heating=HEATING)
    row, key = chunk(superuser, alice, "heating"), opened_key(alice)
    row["emb_cipher"] = flipped(row["emb_cipher"])
    with pytest.raises(InvalidTag):
        sealing.open_vector(key, row["id"], row["emb_cipher"], vector_in(row))
    assert alice.query(QUESTION).json()["results"][0]["text"] == HEATING


def test_sealed_vectors_swapped_between_rows_do_not_open(alice, superuser):
    remember(alice, heating=HEATING, passport=PASSPORT)
    one, other, key = chunk(superuser, alice, "heating"), chunk(superuser, alice, "passport"), opened_key(alice)
    swap(one, other, "emb_cipher")
    for row in (one, other):
        with pytest.raises(InvalidTag):
            sealing.open_vector(key, row["id"], row["emb_cipher"], vector_in(row))
    # With the searchable vector swapped as well, the chunk's id still gives it away.
    first, second = vector_in(one), vector_in(other)
    one["embedding"], other["embedding"] = second, first
    for row in (one, other):
        with pytest.raises(InvalidTag):
            sealing.open_vector(key, row["id"], row["emb_cipher"], vector_in(row))


def test_a_flipped_bit_in_the_sealed_user_id_is_found(alice, bob, superuser):
    remember(alice, heating=HEATING)
    remember(bob, heating=HEATING)
    key, row = opened_key(alice), tenant(superuser, alice)
    assert open_user_id(key, row["user_id_cipher"]) == alice.user_id
    for blob in (flipped(row["user_id_cipher"]), tenant(superuser, bob)["user_id_cipher"]):
        with pytest.raises(InvalidTag):
            open_user_id(key, blob)
    for other in (clone(key, user_hash=bob.user_hash), clone(key, generation=2)):
        with pytest.raises(InvalidTag):
            open_user_id(other, row["user_id_cipher"])


# Keys


@pytest.mark.parametrize("row_of", [data_key, search_key])
def test_one_flipped_bit_in_a_sealed_key_closes_what_it_is_for(alice, bob, superuser, row_of):
    remember(alice, heating=HEATING)
    remember(bob, heating=HEATING)
    forget_profiles()
    row = row_of(superuser, alice)
    row["sealed_key"] = flipped(row["sealed_key"])
    for _ in range(2):
        assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")
        assert_fails_closed(alice.index("heating", PASSPORT), 500, "decryption_failed")
        if row_of is data_key:
            assert_fails_closed(alice.get("memory/documents/heating"), 500, "decryption_failed")
    assert bob.query(QUESTION).json()["results"][0]["text"] == HEATING

    # Nothing was lost: with the bit as it was, everything is as it was.
    row["sealed_key"] = flipped(row["sealed_key"])
    forget_profiles()
    assert alice.query(QUESTION).json()["results"][0]["text"] == HEATING
    assert alice.get("memory/documents/heating").json()["text"] == HEATING


def test_one_flipped_bit_in_the_key_id_makes_the_key_unavailable(alice, superuser):
    remember(alice, heating=HEATING)
    row = data_key(superuser, alice)
    row["key_id"] = flipped(row["key_id"], -8)
    assert row["key_id"] == "k0"
    forget_profiles()
    for response in (alice.query(QUESTION), alice.get("memory/documents/heating"), alice.index("heating", PASSPORT)):
        assert_fails_closed(response, 503, "key_unavailable")
        assert int(response.headers["Retry-After"]) >= 1
    row["key_id"] = "k1"
    forget_profiles()
    assert alice.get("memory/documents/heating").json()["text"] == HEATING


@pytest.mark.parametrize("key_of", [data_key, search_key])
def test_nothing_is_read_or_written_under_a_cached_key_once_the_profile_is_another(alice, superuser, key_of):
    remember(alice, heating=HEATING)
    key_of(superuser, alice)["key_id"] = "k0"
    tenant(superuser, alice)["profile"] = UUID(int=1)
    assert_fails_closed(alice.index("passport", PASSPORT), 503, "key_unavailable")
    assert_fails_closed(alice.query(QUESTION), 503, "key_unavailable")


@pytest.mark.parametrize("key_of", [data_key, search_key])
def test_a_sealed_key_moved_to_another_number_of_its_user_does_not_open(alice, superuser, key_of):
    """A generation's key stands for that generation, a space's for that space."""
    remember(alice, heating=HEATING)
    row, column = key_of(superuser, alice), "generation" if key_of is data_key else "space"
    row[column] = 2
    named = "generation" if key_of is data_key else "active_space"
    tenant(superuser, alice)[named] = 2
    forget_profiles()
    profile = keyring.existing_profile(alice.user_hash)
    with pytest.raises(DecryptionFailed):
        profile.newest if key_of is data_key else profile.search_key  # noqa: B018


def test_a_data_key_does_not_open_as_a_search_key(alice, superuser):
    remember(alice, heating=HEATING)
    search_key(superuser, alice)["sealed_key"] = data_key(superuser, alice)["sealed_key"]
    forget_profiles()
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")


def test_the_key_id_is_authenticated_and_no_other_known_key_is_tried(alice, superuser, monkeypatch):
    remember(alice, heating=HEATING)
    key = read_secret_of_this_run()
    monkeypatch.delenv("MEMORY_ENCRYPTION_KEY_FILE", raising=False)
    monkeypatch.delenv("MEMORY_ENCRYPTION_KEY", raising=False)
    # k1 and k0 are even the same bytes: the row's claim alone differs.
    monkeypatch.setenv("MEMORY_ENCRYPTION_KEYS", f"k1:{key},k0:{key}")
    monkeypatch.setenv("MEMORY_ENCRYPTION_ACTIVE_KEY", "k1")
    forget_profiles()
    assert alice.query(QUESTION).json()["results"][0]["text"] == HEATING
    data_key(superuser, alice)["key_id"] = "k0"
    forget_profiles()
    assert_fails_closed(alice.query(QUESTION), 500, "decryption_failed")


def read_secret_of_this_run() -> str:
    from memory.keys.master_keys import master_keys

    return base64.b64encode(master_keys().active).decode()


def test_a_master_key_of_the_right_name_and_the_wrong_bytes_opens_nothing(alice, monkeypatch):
    remember(alice, heating=HEATING)
    monkeypatch.delenv("MEMORY_ENCRYPTION_KEY_FILE", raising=False)
    monkeypatch.setenv("MEMORY_ENCRYPTION_KEY", base64.b64encode(os.urandom(32)).decode())
    forget_profiles()
    counted = [failures(key) for key in ("search_key", "data_key")]
    for response in (alice.query(QUESTION), alice.get("memory/documents/heating"), alice.index("heating", PASSPORT)):
        assert_fails_closed(response, 500, "decryption_failed")
    # A question needs the search key first, the others the data key.
    assert [failures(key) for key in ("search_key", "data_key")] == [counted[0] + 1, counted[1] + 2]


def test_a_tenant_whose_data_key_is_gone_can_neither_read_nor_write(alice, superuser):
    remember(alice, heating=HEATING)
    superuser.execute("DELETE FROM memory_data_keys WHERE user_hash = %s", [alice.user_hash])
    forget_profiles()
    for response in (alice.query(QUESTION), alice.get("memory/documents/heating"), alice.index("heating", PASSPORT)):
        assert_fails_closed(response, 503, "key_unavailable")
    assert isinstance(chunk(superuser, alice, "heating")["id"], UUID)
