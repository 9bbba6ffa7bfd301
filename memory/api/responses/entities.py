"""What POST /memory/entities answers."""

from __future__ import annotations

from typing import Any

from memory.api.responses.body import About, ListOf, Member
from memory.api.shapes import boolean, integer, or_null, string, uuid
from memory.services.entities import FoundEntities, FoundEntity

MENTION = About(tuple).part(
    "One mention: the characters `start` to `end` of the document, or of the text as it was sent.",
    Member(
        "chunk_id",
        or_null(uuid("The chunk it stands in; null for a text that is not stored.")),
        lambda mention: mention[0] and str(mention[0]),
    ),
    Member("start", integer("The first character, from 0."), lambda mention: mention[1]),
    Member("end", integer("The character after the last."), lambda mention: mention[2]),
)
ENTITY = About(FoundEntity).body(
    "Entity",
    "One entity, whatever the spellings of its mentions.",
    Member("text", string("Its name, as it is mentioned.")),
    Member("label", string("What it is, such as `PERSON`, `ORG`, `GPE` or `DATE`.")),
    Member("count", integer("How many mentions it has.", minimum=1), lambda entity: len(entity.mentions)),
    Member("mentions", ListOf(MENTION)),
)
ENTITY_ANSWER = About(FoundEntities).body(
    "MemoryEntityAnswer",
    "Who and what is mentioned.",
    Member("entities", ListOf(ENTITY, "The most mentioned first.")),
    Member("backend", string("What recognised them: a model's name.")),
    Member("stored", boolean("Whether they now stand in the chunks' sealed metadata.")),
)


def found_entities(found: FoundEntities) -> dict[str, Any]:
    """The entities with their mentions."""
    return ENTITY_ANSWER.render(found)
