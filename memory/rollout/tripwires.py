"""Two test users who try each other, over HTTP with their own tokens: what one stored, the other must never see.

Each has a document with a word that nobody else knows. The other asks for it by query, by its id and by export; the
word, or the document, in any answer is a hit. That somebody sees his own word shows that the probe can hit at all.
A request that fails is no hit: the signals count those.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from memory.rollout.calls import Answer, Unreachable, call

QUERY = "What is the tripwire word of this user?"


@dataclass
class Probe:
    """`hits`: what was seen that may not be seen; `failures`: what could not be tried. Sentences, without the words."""

    hits: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _User:
    name: str
    token: str
    word: str

    @property
    def doc_id(self) -> str:
        return f"r1-tripwire-{self.name}"

    @property
    def text(self) -> str:
        return f"The tripwire word of this user is {self.word}."


class Tripwires:
    """`endpoint`: the service's address; the two tokens are of different users, with the scopes to write and read."""

    def __init__(self, endpoint: str, tokens: tuple[str, str]):
        self._endpoint = endpoint
        self._users = [
            _User(name, token, f"w{secrets.token_hex(12)}")
            for name, token in zip(("first", "second"), tokens, strict=True)
        ]

    def plant(self) -> Probe:
        """Store both documents; anew where a run before left them."""
        probe = Probe()
        for user in self._users:
            self._ask(probe, user, "POST", "index", {"doc_id": user.doc_id, "text": user.text})
        return probe

    def probe(self) -> Probe:
        """Try both ways once."""
        probe = Probe()
        first, second = self._users
        for owner, other in ((first, second), (second, first)):
            self._try(probe, owner, other)
        return probe

    def clear(self) -> None:
        """Remove both documents, where that can be done."""
        for user in self._users:
            self._ask(Probe(), user, "DELETE", f"documents/{user.doc_id}")

    def _try(self, probe: Probe, owner: _User, other: _User) -> None:
        word, sentence = owner.word.encode(), owner.text.encode()
        own = self._ask(probe, owner, "GET", f"documents/{owner.doc_id}")
        if own is not None and word not in own.body:
            probe.failures.append(f"the {owner.name} user does not see their own document: the probe proves nothing")
        for way, method, path, body in (
            ("a query", "POST", "query", {"query": f"{QUERY} {owner.word}", "top_k": 50}),
            ("its id", "GET", f"documents/{owner.doc_id}", None),
            ("an export", "GET", "export", None),
        ):
            answer = self._ask(probe, other, method, path, body, may_be_missing=way == "its id")
            if answer is None:
                continue
            # The question holds the word, so an answer to it may.
            sought = (owner.doc_id.encode(), sentence) if way == "a query" else (word,)
            is_seen = any(each in answer.body for each in sought)
            if is_seen or (way == "its id" and answer.status == 200):
                probe.hits.append(f"the {other.name} tripwire user saw by {way} what the {owner.name} one stored")

    def _ask(
        self, probe: Probe, user: _User, method: str, path: str, body: dict[str, object] | None = None, *,
        may_be_missing: bool = False,
    ) -> Answer | None:  # fmt: skip
        """The answer, if it is one that says something; else the failure is noted."""
        try:
            answer = call(f"{self._endpoint}/api/v1/memory/{path}", method=method, token=user.token, body=body)
        except Unreachable as exc:
            probe.failures.append(f"{method} {path.partition('/')[0]}: {exc}")
            return None
        if answer.status < 300 or (may_be_missing and answer.status == 404):
            return answer
        probe.failures.append(f"{method} {path.partition('/')[0]}: {answer.status}")
        return None
