"""A search key a user and space: what makes vectors and terms comparable, whatever data key seals the texts."""

from __future__ import annotations

import pytest

from memory.embedding.spaces import default_space, forget_spaces
from memory.erasure.erase import KEY_TABLES, erase_memory, erase_unrecorded
from memory.errors import KeyUnavailable
from memory.rls import bind_tenant, tenant_transaction
from memory.sealing.keyring import INSERT_SEARCH_KEY, existing_profile, forget_profiles
from memory.sealing.profile import SEARCH_KEY_COLUMN, SealedKey
from memory.sealing.protection import protect
from tests.db.lexicon import lexical_scores, store
from tests.db.memories import remember, unit_vector
from tests.security.generations import add

pytestmark = pytest.mark.django_db(transaction=True)

OTHER_SPACE = 2


def stored(superuser, person) -> dict[int, bytes]:
    """space -> the sealed key."""
    rows = superuser.execute(
        "SELECT space, sealed_key FROM memory_search_keys WHERE user_hash = %s", [person.user_hash]
    )
    return dict(rows.fetchall())


def number_of_keys(superuser, person) -> list[int]:
    """How many the user has in each of the key tables."""
    counts = "SELECT count(*) FROM {} WHERE user_hash = %s"
    return [superuser.execute(counts.format(table), [person.user_hash]).fetchone()[0] for table in KEY_TABLES]


def give_another_space_a_key(person) -> None:
    """As the beginning of a move to another model does."""
    sealed = SealedKey.of(bytes(range(32)), person.user_hash, SEARCH_KEY_COLUMN, OTHER_SPACE)
    with tenant_transaction(person.user_hash, write=True) as tx:
        tx.execute(INSERT_SEARCH_KEY, [person.user_hash, OTHER_SPACE, sealed.key_id, sealed.blob])


def test_a_new_user_has_one_search_key_in_the_default_space_and_one_data_key(alice, superuser):
    remember(alice, "a", "b")
    assert list(stored(superuser, alice)) == [default_space()]
    assert number_of_keys(superuser, alice) == [1, 1]
    profile = existing_profile(alice.user_hash)
    assert profile.space == profile.search_key.space == default_space()
    assert profile.search_key._key != profile.newest._key


def test_a_search_key_stays_what_it_is_when_the_data_key_is_another(alice, superuser):
    store(alice, "a", ["the ferry leaves at nine"])
    before, scores = stored(superuser, alice), lexical_scores(alice, "ferry")
    add(alice)
    assert stored(superuser, alice) == before
    assert lexical_scores(alice, "ferry") == scores and scores[("a", 0)] > 0
    store(alice, "a", ["the ferry leaves at nine"])
    assert lexical_scores(alice, "ferry") == scores


@pytest.fixture
def other_space(superuser):
    """OTHER_SPACE, registered: another edition of the default one."""
    made = superuser.execute(
        "INSERT INTO memory_spaces (space, fingerprint, description, tenant_key_check, edition)"
        " SELECT %s, fingerprint, description, tenant_key_check, 99 FROM memory_spaces WHERE is_default"
        " ON CONFLICT DO NOTHING",
        [OTHER_SPACE],
    ).rowcount
    yield
    if made:
        superuser.execute("DELETE FROM memory_spaces WHERE space = %s", [OTHER_SPACE])
    forget_spaces()


def test_one_vector_looks_different_with_every_user_and_in_every_space(alice, bob, superuser, other_space):
    remember(alice, "a")
    remember(bob, "a")
    vector = unit_vector()
    hers, his = existing_profile(alice.user_hash), existing_profile(bob.user_hash)
    looks = [protect(profile.search_key, vector) for profile in (hers, his)]
    give_another_space_a_key(alice)
    superuser.execute(
        "UPDATE memory_tenants SET active_space = %s, profile = gen_random_uuid() WHERE user_hash = %s",
        [OTHER_SPACE, alice.user_hash],
    )
    forget_profiles()
    looks.append(protect(existing_profile(alice.user_hash).search_key, vector))
    for index, one in enumerate(looks):
        assert abs(float(one @ vector)) < 0.5
        for other in looks[index + 1 :]:
            assert abs(float(one @ other)) < 0.5


def test_a_key_of_another_space_is_not_used_for_this_one(alice, superuser):
    remember(alice, "a")
    give_another_space_a_key(alice)
    forget_profiles()
    assert existing_profile(alice.user_hash).search_key.space == default_space()
    superuser.execute(
        "DELETE FROM memory_search_keys WHERE user_hash = %s AND space = %s", [alice.user_hash, default_space()]
    )
    forget_profiles()
    with pytest.raises(KeyUnavailable):
        _ = existing_profile(alice.user_hash).search_key


def test_without_its_search_key_a_memory_is_read_but_neither_searched_nor_added_to(alice, superuser):
    assert alice.index("a", "The ferry leaves at nine.").status_code == 201
    superuser.execute("DELETE FROM memory_search_keys WHERE user_hash = %s", [alice.user_hash])
    forget_profiles()
    assert alice.get("memory/documents/a").json()["text"] == "The ferry leaves at nine."
    for response in (alice.query("ferry"), alice.index("b", "Another text.")):
        assert (response.status_code, response.json()["code"]) == (503, "key_unavailable")
    assert alice.get("memory/documents/b").status_code == 404


@pytest.mark.parametrize("erase", [erase_memory, erase_unrecorded])
def test_an_erasure_destroys_the_keys_of_every_generation_and_every_space(alice, bob, superuser, erase):
    for person in (alice, bob):
        remember(person, "a")
        give_another_space_a_key(person)
        add(person)
        add(person)
    assert number_of_keys(superuser, alice) == [3, 2]
    with bind_tenant(alice.user_hash):
        erased = erase()
    assert number_of_keys(superuser, alice) == [0, 0]
    assert number_of_keys(superuser, bob) == [3, 2]
    if erase is erase_unrecorded:
        assert (erased["memory_data_keys"], erased["memory_search_keys"]) == (3, 2)
    assert existing_profile(alice.user_hash) is None
    forget_profiles()
    assert existing_profile(bob.user_hash).newest is not None
