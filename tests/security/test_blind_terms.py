"""What the lexical columns give away to whoever reads the database: word equality within one user, and no words."""

from __future__ import annotations

import hashlib
import zlib

import pytest

from memory.lexical.terms import blind
from memory.retrieval.plan import SEARCHED_TABLES
from memory.sealing.keyring import existing_profile
from memory.sealing.user_keys import Purpose
from tests.db.lexicon import lexical_scores, store
from tests.db.memories import flush_terms
from tests.db.server import connect
from tests.people import Person

pytestmark = pytest.mark.django_db(transaction=True)

CANARY = "xylophonequartz"
# Long enough to stand in no hash or id by chance.
NUMBER = "471147114711"
LEXICAL_TABLES = [table for table in SEARCHED_TABLES if table != "memory_chunks"]


def memtable_terms(person: Person) -> dict[str, set[int]]:
    """doc_id -> the ids stored for its one chunk."""
    with connect("r1_backup") as backup:
        rows = backup.execute(
            "SELECT c.doc_id, l.terms FROM memory_lexical_chunks l JOIN memory_chunks c"
            " ON c.user_hash = l.user_hash AND c.id = l.chunk_id WHERE l.user_hash = %s",
            [person.user_hash],
        )
        return {doc_id: set(terms) for doc_id, terms in rows}


def test_the_same_words_have_the_same_ids_within_one_user_and_others_with_another(alice, bob):
    for person in (alice, bob):
        store(person, "one", [f"{CANARY} boiler engineer"])
        store(person, "two", [f"{CANARY} harbour"])
    hers, his = memtable_terms(alice), memtable_terms(bob)
    assert len(hers["one"]) == len(his["one"]) == 3
    assert len(hers["one"] & hers["two"]) == len(his["one"] & his["two"]) == 1
    assert not (hers["one"] | hers["two"]) & (his["one"] | his["two"])


def test_the_ids_are_those_of_the_search_keys_sub_key_for_words_and_no_unkeyed_digest(alice):
    store(alice, "one", [CANARY])
    profile = existing_profile(alice.user_hash)
    [stored] = memtable_terms(alice)["one"]
    assert [stored] == blind(profile.search_key.subkey(Purpose.WORDS), [CANARY])
    for key in (profile.search_key, profile.newest):
        for purpose in set(Purpose) - ({Purpose.WORDS} if key is profile.search_key else set()):
            assert [stored] != blind(key.subkey(purpose), [CANARY])
    digests = [hashlib.new(name, CANARY.encode()).digest() for name in ("md5", "sha1", "sha256", "blake2b")]
    digests.append(zlib.crc32(CANARY.encode()).to_bytes(4, "big"))
    for digest in digests:
        for order in ("big", "little"):
            assert stored not in (
                int.from_bytes(digest[:4], order, signed=True), int.from_bytes(digest[-4:], order, signed=True)
            )  # fmt: skip


@pytest.mark.parametrize("in_segments", [False, True])
def test_no_word_of_a_text_stands_in_a_lexical_column(alice, in_segments):
    store(alice, "doc", [f"{CANARY} ERR_CONN_{NUMBER} zweitesgeheimnis", "another passage"])
    if in_segments:
        assert flush_terms(alice, chunks=2) == 1
    read = 0
    with connect("r1_backup") as backup:
        for table in LEXICAL_TABLES:
            for (row,) in backup.execute(f"SELECT r::text FROM {table} r WHERE user_hash = %s", [alice.user_hash]):
                read += 1
                for word in (CANARY, "err_conn", NUMBER, "zweit", "passag"):
                    assert word not in row.lower()
                    assert word.encode().hex() not in row.lower()
    assert read >= 2


def test_a_term_put_in_another_users_row_finds_nothing(alice, bob):
    """Bob knows every id Alice has stored, and has rows with them: her words still are not his."""
    store(alice, "hers", [CANARY])
    ids = blind(existing_profile(alice.user_hash).search_key.subkey(Purpose.WORDS), [CANARY])
    store(bob, "his", ["something"])
    with connect("r1_maint") as maint:
        changed = maint.execute(
            "UPDATE memory_lexical_chunks SET terms = %s WHERE user_hash = %s", [ids, bob.user_hash]
        )
        assert changed.rowcount == 1
    assert lexical_scores(bob, CANARY) == {("his", 0): 0.0}
    assert lexical_scores(alice, CANARY)[("hers", 0)] > 0
