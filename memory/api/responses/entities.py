"""What POST /memory/entities answers."""

from __future__ import annotations

from memory.services.entities import FoundEntities


def found_entities(found: FoundEntities) -> dict:
    """The entities with their mentions."""
    return {
        "entities": [
            {
                "text": entity.text,
                "label": entity.label,
                "count": len(entity.mentions),
                "mentions": [
                    {"chunk_id": chunk_id and str(chunk_id), "start": start, "end": end}
                    for chunk_id, start, end in entity.mentions
                ],
            }
            for entity in found.entities
        ],
        "backend": found.backend,
        "stored": found.stored,
    }
