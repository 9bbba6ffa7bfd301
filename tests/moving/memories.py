"""A memory of every kind, and all that its owner can ask of it."""

from __future__ import annotations

import json
from operator import itemgetter

from memory.admission.pace import Pace
from memory.maintenance.moves import Reindexed, reindex_users
from tests.people import Person

SPOKEN = {
    "turn/1": ("Anna Smith", "Where did you put the passport before the journey to Lisbon?"),
    "turn/2": ("Ben", "In the second drawer, under the notary's envelope, as always."),
    "turn/3": ("Anna Smith", "And the heat pump in the cellar, who serviced it in March?"),
    "turn/4": ("Ben", "Ravindra did, on a Tuesday, and he left the bill on the piano."),
}
LONG = "The ferry to the island leaves at nine on weekdays. " * 60 + "Angela Merkel visited the beekeepers in Berlin."
QUESTIONS = (
    "Where is the passport?",
    "Who serviced the heat pump?",
    "What did Ben say of the bill?",
    'the "beekeepers in Berlin"',
    "ferry to the island on weekdays",
)
REPEATED = {"doc_id": "repeated", "text": "The roof above the kitchen leaks when the wind comes from the west."}


def remember_all(person: Person) -> None:
    """Everything of the product that leaves rows."""
    remember_some(person)
    assert person.post("memory/entities", {"doc_id": "long"}).json()["stored"]


def remember_some(person: Person) -> None:
    """The same without what takes a language model's time."""
    for number, (doc_id, (speaker, text)) in enumerate(SPOKEN.items()):
        person.index(
            doc_id, text, thread_id="kitchen", speaker=speaker, sequence=number, created_at="2025-03-01T08:00:00Z",
            metadata={"turn": number},
        )  # fmt: skip
    person.index("long", LONG, created_at="2025-03-02T08:00:00Z")
    repeat(person)
    assert person.post("memory/summarize", {"thread_id": "kitchen"}).json()["stored"]


def repeat(person: Person):
    """A request under an Idempotency-Key, always the same."""
    return person.post("memory/index", REPEATED, **{"idempotency-key": "once"})


class HalfPrecise(float):
    """A score of vectors that are kept in half precision, under one matrix or another: equal as far as that goes."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(self - other) <= 0.002

    __hash__ = None  # type: ignore[assignment]


def answers(person: Person) -> list[list[tuple]]:
    """What each question brings, by chunk: ids, text, metadata and scores.

    Not in the order of the answer, in which passages of like text change places with a bit of half precision.
    """
    found = []
    for question in QUESTIONS:
        body = person.query(question, top_k=10, rerank=False, decay_weight=0).json()
        found.append(
            [
                (
                    each["chunk_id"], each["doc_id"], each["citation"]["quote"], each["metadata"],
                    HalfPrecise(each["scores"]["vector"]), each["scores"]["lexical"],
                )
                for each in sorted(body["results"], key=itemgetter("chunk_id"))
            ]
        )  # fmt: skip
    return found


def exported(person: Person) -> dict[str, dict]:
    """doc_id -> the document as the export has it."""
    raw = b"".join(person.get("memory/export").streaming_content)
    lines = [json.loads(line) for line in raw.splitlines()]
    return {line["doc_id"]: line for line in lines if "doc_id" in line}


def listed(person: Person) -> list[dict]:
    """The documents as the listing has them."""
    listing: list[dict] = person.get("memory/documents?limit=100").json()["results"]
    return listing


def reindexed(person: Person, space: int) -> Reindexed:
    """What the command does, for one person, in this process."""
    from django.db import connections

    done = Reindexed(dry_run=False, space=space)
    reindex_users(
        connections["maint"], done, user_hash=person.user_hash, pace=Pace(0), progress=lambda *shown: None
    )  # fmt: skip
    connections["maint"].close()
    return done


def rows_by_space(superuser, person: Person) -> dict[str, set[int]]:
    """table -> the spaces that the person has rows of."""
    tables = ("memory_chunks", "memory_lexical_chunks", "memory_lexical_segments", "memory_search_keys")
    return {
        table: {
            space
            for (space,) in superuser.execute(
                f"SELECT DISTINCT space FROM {table} WHERE user_hash = %s", [person.user_hash]
            ).fetchall()
        }
        for table in tables
    }
