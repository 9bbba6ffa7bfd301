"""The page on encryption says what the code does: its vectors are opened, its tables compared."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from memory.embedding.vectors import half_vectors
from memory.erasure import receipts
from memory.keys import master_keys, receipt_keys
from memory.keys.receipt_keys import ReceiptKey
from memory.lexical.speakers import speaker_id
from memory.lexical.terms import Blinder
from memory.sealing import columns
from memory.sealing.keyring import open_user_id
from memory.sealing.profile import DATA_KEY_COLUMN, SEARCH_KEY_COLUMN, SealedKey
from memory.sealing.user_keys import DataKey, Purpose, SearchKey
from memory.security import InvalidTag, hmac_user
from memory.services.idempotency import IdempotentCall
from memory.services.summary import SummaryScope

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "deploy/guide/encryption.md").read_text("utf-8")
MASTER, DATA, SEARCH, RECEIPT, TENANT = (bytes(range(start, start + 32)) for start in range(0, 160, 32))
USER_HASH = "ab" * 32
KEY, SEARCH_KEY = DataKey(USER_HASH, 3, DATA), SearchKey(USER_HASH, 2, SEARCH)
ORIGIN = columns.Origin("notes", "t1", datetime(2026, 1, 31, 9, 30, tzinfo=UTC), 4)
PLACE = columns.Place(UUID("018f0000-0000-7000-8000-000000000001"), "d1", 0, 0, 5, ORIGIN)
VECTOR = np.array([1.0, 0.0], np.float32)
SEARCHABLE = half_vectors(VECTOR[None, :])[0]
KEY_MAC, BODY_MAC = b"\x01" * 32, b"\x02" * 32


def rows(header: str) -> list[list[str]]:
    """The cells of the one table with this header, without their marks of code."""
    table = PAGE.split(f"\n{header}\n")[1].split("\n\n")[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


SEALED = {column: bytes.fromhex(blob) for column, _, blob in rows("| column | holds | sealed value |")}
OPENED = {
    "memory_chunks.text_cipher": (lambda blob: columns.open_text(KEY, PLACE, blob), "hello"),
    "memory_chunks.meta_cipher": (lambda blob: columns.open_chunk_metadata(KEY, PLACE.chunk_id, blob), {"a": 1}),
    "memory_chunks.emb_cipher": (
        lambda blob: columns.open_vector(KEY, PLACE.chunk_id, blob, SEARCHABLE).tolist(),
        [1.0, 0.0],
    ),
    "memory_documents.meta_cipher": (
        lambda blob: columns.open_document_metadata(KEY, "d1", columns.content_mac(KEY, "hello"), ORIGIN, blob),
        {"a": 1},
    ),
    "memory_documents.speaker_cipher": (
        lambda blob: columns.open_speaker(KEY, "d1", columns.content_mac(KEY, "hello"), blob),
        "Anna Smith",
    ),
    "memory_idempotency.answer_cipher": (lambda blob: columns.open_answer(KEY, KEY_MAC, BODY_MAC, blob), b"[]"),
    "memory_tenants.user_id_cipher": (lambda blob: open_user_id(KEY, blob), "alice"),
}


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setattr(master_keys, "_parsed_hmac", TENANT)
    monkeypatch.setattr("memory.sealing.providers.master_keys", lambda: master_keys.MasterKeys("k1", {"k1": MASTER}))
    monkeypatch.setattr(receipts, "receipt_keys", lambda: (ReceiptKey(RECEIPT),))
    monkeypatch.setattr(receipt_keys, "receipt_keys", lambda: (ReceiptKey(RECEIPT),))


def test_each_sub_key_is_the_one_shown():
    shown = dict(rows("| purpose | sub-key |"))
    assert set(shown) == {purpose.value for purpose in Purpose}
    for name, value in shown.items():
        key = SEARCH_KEY if name in (Purpose.ROTATION, Purpose.WORDS, Purpose.SPEAKERS) else KEY
        assert key.subkey(Purpose(name)).hex() == value, name


@pytest.mark.parametrize("column", OPENED)
def test_a_sealed_value_that_is_shown_opens_to_what_it_holds_and_no_other_does(column):
    open_value, holds = OPENED[column]
    assert open_value(SEALED[column]) == holds
    for other in SEALED.keys() - {column}:
        with pytest.raises(InvalidTag):
            open_value(SEALED[other])


@pytest.mark.parametrize(("column", "number", "key"), [(DATA_KEY_COLUMN, 3, DATA), (SEARCH_KEY_COLUMN, 2, SEARCH)])
def test_a_sealed_key_that_is_shown_opens(keys, column, number, key):
    assert SealedKey("k1", SEALED[column]).open(USER_HASH, column, number) == key


def test_every_sealed_column_is_described_and_has_a_vector():
    described = {column for column, _, _ in rows("| column | sealed by | associated data |")}
    assert described == set(SEALED) == {*OPENED, DATA_KEY_COLUMN, SEARCH_KEY_COLUMN}


def test_macs_ids_and_the_receipt_are_those_shown(keys):
    receipt = receipts.signed_receipt(
        "alice", erased_documents=2, erased_chunks=3, key_destroyed=True,
        unrecoverable_after="2026-03-02T09:30:00Z", at="2026-01-31T09:30:00Z",
    )  # fmt: skip
    call = IdempotentCall("k-1", b'{"doc_id":"d1"}')
    found = [
        columns.content_mac(KEY, "hello").hex(),
        str(Blinder(SEARCH_KEY.subkey(Purpose.WORDS)).id("train")),
        str(speaker_id(SEARCH_KEY, "Anna Smith")),
        hmac_user("alice"),
        ReceiptKey(RECEIPT).key_id,
        receipt.signature,
        call._key_mac(KEY).hex(),
        call._body_mac(KEY).hex(),
        SummaryScope("thread_id", "t1").doc_id("alice"),
        master_keys.tenant_key_check().hex(),
    ]
    assert found == [value for _, value in rows("| value | is |")]


def test_every_purpose_a_key_is_derived_for_is_listed_and_no_other():
    listed = {purpose for _, purpose, _ in rows("| of | purpose | for |")}
    text = "\n".join(path.read_text("utf-8") for path in (PROJECT / "memory").rglob("*.py"))
    named = set(re.findall(r'(?:derived|derived_key|service_key)\((?:[a-z_()]+, )?"([a-z-]+)"\)', text))
    named |= set(re.findall(r'_PURPOSE = "([a-z-]+)"', text)) | {purpose.value for purpose in Purpose}
    assert listed == named
