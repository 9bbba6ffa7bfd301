"""Named entities: what recognises them, and how mentions of one thing become one entity."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from memory.formats.combining_marks import stream_safe
from memory.language.pipeline import entity_pipeline, pipeline_name, readable
from memory.language.sentences import split_sentences

if TYPE_CHECKING:
    from spacy.language import Language

PASSAGE_CHARS = 2_000  # what is recognised at once: whole sentences up to this
# A turn is about half a second of a CPU; then it is another user's. Time goes by tokens, of which prose has one for
# some five characters, and a text of symbols one for each.
TURN_CHARS = 10_000
TURN_TOKENS = 2_000

_TOKEN = re.compile(r"\w+|[^\w\s]|[^\S ]+")

_BEFORE_NAME = re.compile(r"(?:(?:the|an?)\s+|[\s\"'“‘«(\[])+", re.IGNORECASE)
_AFTER_NAME = re.compile(r"(?:['’]s?|[\s\"”»)\],;:])+\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    """`text` is exactly the characters start..end of the text it was found in."""

    text: str
    label: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing and where it is mentioned; `text` is the form it is mentioned by most."""

    text: str
    label: str
    mentions: tuple[Mention, ...]


class EntityRecognizer(Protocol):
    """What finds mentions; `backend` names it in answers."""

    @property
    def backend(self) -> str: ...

    def recognize(self, texts: Sequence[str], *, deadline: float | None = None) -> list[list[Mention]]:
        """The mentions in each text, in order. `deadline` is on the `time.monotonic()` clock; Overloaded past it."""
        ...


class SpacyRecognizer:
    """The pipeline named by MEMORY_SPACY_MODEL, for one user, whose turns it takes."""

    def __init__(self, user: str = ""):
        self._user = user

    @property
    def backend(self) -> str:
        return f"spacy:{pipeline_name()}"

    def recognize(self, texts: Sequence[str], *, deadline: float | None = None) -> list[list[Mention]]:
        """Raises Overloaded, ModelUnavailable. Each text should be a page at most: spaCy reads it at once."""
        pipeline = entity_pipeline()
        found: list[list[Mention]] = []
        for turn, tokens in _turns(texts):
            spans = pipeline.run(partial(_recognised, texts=turn), deadline=deadline, user=self._user, tokens=tokens)
            for text, entities in zip(turn, spans, strict=True):
                found.append([Mention(text[start:end], label, start, end) for label, start, end in entities])
        return found


def recognizer(user: str = "") -> EntityRecognizer:
    """The process's recogniser, as one user's."""
    return SpacyRecognizer(user)


def find_mentions(
    recognizer: EntityRecognizer, text: str, *, deadline: float | None = None, user: str = ""
) -> list[Mention]:
    """The mentions in a text of any length, each trimmed to its name: no article, possessive or outer punctuation.

    `user`: whose turns finding the sentences takes. Raises Overloaded past the deadline, ModelUnavailable.
    """
    passages = list(_passages(text, deadline, user))
    found = recognizer.recognize([text[start:end] for start, end in passages], deadline=deadline)
    mentions = []
    for (offset, _), in_passage in zip(passages, found, strict=True):
        for mention in in_passage:
            start, end = _name(mention.text)
            if any(map(str.isalnum, mention.text[start:end])):
                begin = offset + mention.start + start
                mentions.append(Mention(mention.text[start:end], mention.label, begin, begin + end - start))
    return mentions


def merge(mentions: Iterable[Mention]) -> list[Entity]:
    """Mentions of one label whose names differ in case, spacing or compatibility forms are one entity.

    The most mentioned first, then in the order of their first mention.
    """
    by_name: dict[tuple[str, str], list[Mention]] = {}
    for mention in mentions:
        by_name.setdefault((mention.label, _folded(mention.text)), []).append(mention)
    entities = []
    for (label, _), group in by_name.items():
        forms = Counter(" ".join(mention.text.split()) for mention in group)
        entities.append(Entity(forms.most_common(1)[0][0], label, tuple(group)))
    return sorted(entities, key=lambda entity: -len(entity.mentions))


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", stream_safe(name)).casefold().replace("’", "'").split())


def _name(surface: str) -> tuple[int, int]:
    """Where the name itself stands in a mention: (start, end)."""
    before = _BEFORE_NAME.match(surface)
    start = before.end() if before else 0
    after = _AFTER_NAME.search(surface, start)
    return start, after.start() if after else len(surface)


def _recognised(nlp: Language, texts: Sequence[str]) -> list[list[tuple[str, int, int]]]:
    docs = nlp.pipe([readable(text) for text in texts])
    return [[(entity.label_, entity.start_char, entity.end_char) for entity in doc.ents] for doc in docs]


def _passages(text: str, deadline: float | None, user: str) -> Iterator[tuple[int, int]]:
    """(start, end) of runs of whole sentences up to PASSAGE_CHARS."""
    start: int | None = None
    end = 0
    for sentence in split_sentences(text, deadline=deadline, user=user):
        if start is not None and sentence.end - start > PASSAGE_CHARS:
            yield start, end
            start = None
        if start is None:
            start = sentence.start
        end = sentence.end
    if start is not None:
        yield start, end


def _turns(texts: Sequence[str]) -> Iterator[tuple[list[str], int]]:
    """What is read in one turn, and its tokens."""
    turn: list[str] = []
    chars = tokens = 0
    for text in texts:
        more = sum(1 for _ in _TOKEN.finditer(text))
        if turn and (chars + len(text) > TURN_CHARS or tokens + more > TURN_TOKENS):
            yield turn, tokens
            turn, chars, tokens = [], 0, 0
        turn.append(text)
        chars += len(text)
        tokens += more
    if turn:
        yield turn, tokens
