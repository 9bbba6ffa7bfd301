"""Generations of a person's data key, added and retired as another process does it: this one's cache is not told."""

from __future__ import annotations

from memory.rls import tenant_transaction
from memory.sealing.generations import add_generation, retire_generation
from memory.sealing.keyring import forget_profiles
from memory.sealing.profile import read_profile
from tests.people import Person


def add(person: Person, *, forget: bool = True) -> int:
    """One more generation; its number."""
    with tenant_transaction(person.user_hash, write=True) as tx:
        generation = add_generation(tx, read_profile(tx))
    if forget:
        forget_profiles(person.user_hash)
    return generation


def retire(person: Person, generation: int) -> bool:
    """Whether that generation's key is gone."""
    with tenant_transaction(person.user_hash, write=True) as tx:
        is_gone = retire_generation(tx, read_profile(tx), generation)
    forget_profiles(person.user_hash)
    return is_gone


def live(superuser, person: Person) -> list[int]:
    """The generations whose keys are stored."""
    rows = superuser.execute(
        "SELECT generation FROM memory_data_keys WHERE user_hash = %s ORDER BY generation", [person.user_hash]
    )
    return [generation for (generation,) in rows]


def of_rows(superuser, person: Person) -> dict[str, tuple[int, ...]]:
    """doc_id -> the generations that its row and its chunks' name, each once."""
    rows = superuser.execute(
        "SELECT doc_id, array_agg(DISTINCT generation ORDER BY generation) FROM ("
        " SELECT doc_id, generation FROM memory_documents WHERE user_hash = %(user)s UNION ALL"
        " SELECT doc_id, generation FROM memory_chunks WHERE user_hash = %(user)s) named GROUP BY doc_id",
        {"user": person.user_hash},
    )
    return {doc_id: tuple(generations) for doc_id, generations in rows}
