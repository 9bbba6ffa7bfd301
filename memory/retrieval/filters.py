"""What a query may be narrowed to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Filters:
    """Times are aware; `since` is included, `until` is not. `speaker`: a blind id."""

    sources: tuple[str, ...] = ()
    doc_ids: tuple[str, ...] = ()
    thread_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    speaker: int | None = None

    def conditions(self) -> tuple[str, dict]:
        """SQL: what they add to a WHERE over memory_chunks, and its parameters; nothing where they are empty."""
        conditions, params = "", {}
        for name, clause, value in (
            ("sources", "source = ANY(%(sources)s)", list(self.sources)),
            ("doc_ids", "doc_id = ANY(%(doc_ids)s)", list(self.doc_ids)),
            ("thread_id", "thread_id = %(thread_id)s", self.thread_id),
            ("since", "created_at >= %(since)s", self.since),
            ("until", "created_at < %(until)s", self.until),
            ("speaker", "speaker = %(speaker)s", self.speaker),
        ):
            if value not in (None, []):
                conditions += f" AND {clause}"
                params[name] = value
        return conditions, params
