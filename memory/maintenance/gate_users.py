"""The two users that exist while a gate runs: stored through the service, erased with every trace of them."""

from __future__ import annotations

import time
import uuid

from memory.erasure.erase import erase_unrecorded
from memory.indexing.seal import DocumentDraft
from memory.rls import bind_tenant
from memory.security import hmac_user
from memory.services.index import index_documents

# Known ids, so that a run finds what an earlier one left when it was killed; no token's `sub` looks like one.
_NAMESPACE = uuid.UUID("8f6f0c1e-5d0a-5c07-9b39-3f1a6ce2b7d4")
_THINGS = ("heat pump", "water filter", "garden gate", "roof window", "cellar lamp", "door bell", "hall clock", "stove")
_DEEDS = ("was serviced", "was replaced", "was painted", "was measured", "broke down")
_MONTHS = ("January", "March", "May", "July", "September", "November")


class GateUser:
    """A context: the user is erased at its start, in case an earlier run was killed, and at its end."""

    question = "When was the heat pump serviced?"

    def __init__(self, name: str):
        self.name = name
        self.user_id = f"gate-{uuid.uuid5(_NAMESPACE, name)}"
        self.user_hash = hmac_user(self.user_id)
        self.documents: list[str] = []

    def __enter__(self) -> GateUser:
        self._erase()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._erase()

    def remember(self) -> float:
        """Index one more document of a paragraph through the service: milliseconds, embedding included."""
        number = len(self.documents)
        thing, deed = _THINGS[number % len(_THINGS)], _DEEDS[number % len(_DEEDS)]
        text = f"The {thing} {deed} in {_MONTHS[number % len(_MONTHS)]} by {self.name}, as note {number} says. " * 4
        draft = DocumentDraft(f"{self.name}-{number}", "gate", text)
        started = time.perf_counter()
        with bind_tenant(self.user_hash):
            index_documents(self.user_id, [draft])
        self.documents.append(draft.doc_id)
        return (time.perf_counter() - started) * 1000

    def _erase(self) -> None:
        with bind_tenant(self.user_hash):
            erase_unrecorded()
