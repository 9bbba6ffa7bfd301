"""What is summarised, and what became of it."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass, field

from memory.indexing.derived import SUMMARY_SOURCE
from memory.keys.receipt_keys import summary_key
from memory.language.extract import CitedSentence


@dataclass(frozen=True)
class SummaryScope:
    """What to summarise: `kind` is doc_ids, thread_id, source or query; `value` a string, or the sorted doc_ids."""

    kind: str
    value: str | tuple[str, ...]

    def doc_id(self, user_id: str) -> str:
        """The id of this scope's summary: 32 hex digits of an HMAC-SHA256 under the service's key, that say nothing.

        The same each time for one user, whatever other keys have changed, and for nobody else.
        """
        canonical = json.dumps([user_id, self.kind, self.value], ensure_ascii=False, separators=(",", ":"))
        return f"{SUMMARY_SOURCE}/{hmac.digest(summary_key(), canonical.encode(), 'sha256').hex()[:32]}"

    def value_of(self, kind: str) -> str | None:
        """The string, where the scope is of that kind."""
        return self.value if self.kind == kind and isinstance(self.value, str) else None

    @property
    def must_exist(self) -> bool:
        """Whether naming what is not there is an error."""
        return self.kind in ("doc_ids", "thread_id")


@dataclass(frozen=True)
class Summary:
    """`sentences` are the cited ones, in document order; `text` is those, or a language model's words for them.

    `covers_documents` and `covers_chunks` count what was considered. Times in milliseconds.
    """

    text: str
    sentences: list[CitedSentence]
    covers_documents: int
    covers_chunks: int
    backend: str
    doc_id: str | None
    degraded: list[str]
    took_ms: dict[str, float] = field(default_factory=dict)
