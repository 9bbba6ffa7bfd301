"""Answer a message while the answer is being written: citations first, then its text in deltas."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from django.conf import settings

from memory.admission import concurrency
from memory.admission.deadline import remaining_seconds
from memory.errors import LanguageModelError, Overloaded
from memory.language import answerer
from memory.language.answerer import NumberedPassage
from memory.language.llm import LanguageModel, language_model
from memory.language.prompts import answer_messages, plain_messages
from memory.limits import TOP_K_DEFAULT
from memory.retrieval.candidate import Candidate, Neighbour
from memory.retrieval.filters import Filters
from memory.rls import bound_tenant
from memory.services.query import MemoryAnswer, MemoryQuery, query_memory

ANSWER_MAX_TOKENS = 1024
# What stands beside a passage says what it is about: a turn alone says little.
SURROUNDINGS = 1
# Outside of a request, which has a deadline.
SEARCH_WAIT_MAX_SECONDS = 10.0
# A language model's silence is reported this often, so that a client that has left is noticed.
SILENCE_SECONDS = 0.5

NO_MODEL = "No language model is configured here, so there is no answer without memory."
NOTHING_FOUND = "There is nothing about this in memory."


@dataclass(frozen=True)
class StreamedQuestion:
    """A message and what to answer it from; `min_score` as in a query."""

    message: str
    top_k: int = TOP_K_DEFAULT
    memory: bool = True
    filters: Filters = field(default_factory=Filters)
    min_score: float | None = None


class Citations(NamedTuple):
    """What memory found; None where it was not asked."""

    found: MemoryAnswer | None


class Delta(NamedTuple):
    """The next piece of the answer, never empty."""

    text: str


class Silence(NamedTuple):
    """Nothing new for SILENCE_SECONDS."""


@dataclass(frozen=True)
class Done:
    """The answer is complete. `usage`: the model's own counts, else `completion_tokens` is the number of deltas."""

    finish_reason: str
    usage: dict[str, int]
    degraded: list[str] = field(default_factory=list)


StreamEvent = Citations | Delta | Silence | Done


def stream_answer(question: StreamedQuestion) -> Iterator[StreamEvent]:
    """Citations, then deltas with silences among them, then Done; whatever fails on the way is raised there.

    1. Find passages in the bound tenant's memory, where asked to: now, so that what fails is an error and no stream.
    2. Give the citations. Where nothing of what is remembered answers the message there are none, and NOTHING_FOUND is
       the answer.
    3. Give the language model's answer to message and passages, where there is one.
    4. Else, or where it failed before its first delta, the built-in answer from the passages.
    5. Done.

    From step 2 on no tenant is bound and no database connection held. Closing the iterator closes the model's
    connection. Raises as `query_memory`; later LanguageModelError once the model has begun to answer, or has failed
    with no memory to answer from, and Overloaded past MEMORY_STREAM_MAX_SECONDS.
    """
    deadline = time.monotonic() + settings.MEMORY_STREAM_MAX_SECONDS
    user_hash = bound_tenant()
    found = None
    if question.memory:
        # A stream has a thread of its own; to search, it shares what its user's other requests may do at once.
        slot = concurrency.requests.take(user_hash, patience_seconds=remaining_seconds(SEARCH_WAIT_MAX_SECONDS))
        try:
            found = query_memory(
                MemoryQuery(
                    question.message,
                    question.top_k,
                    filters=question.filters,
                    min_score=question.min_score,
                    surroundings=SURROUNDINGS,
                )
            )
        finally:
            slot.release()
    return _events(question, found, deadline, user_hash)


def _events(
    question: StreamedQuestion, found: MemoryAnswer | None, deadline: float, user_hash: str
) -> Iterator[StreamEvent]:
    is_irrelevant = found is not None and found.candidates > 0 and not found.relevant
    if found is not None and is_irrelevant:
        found = replace(found, results=[])
    passages = _numbered(found.results) if found else []
    yield Citations(found)
    if is_irrelevant:
        # No model is asked either: it would make something up, or say the same in other words. Where there is nothing
        # to be irrelevant, as with a user who has just come, it is.
        yield from _said(NOTHING_FOUND, [], deadline)
        return

    degraded: list[str] = []
    if model := language_model():
        has_begun = False
        try:
            for event in _from_model(model, question, passages, deadline, user_hash):
                has_begun = has_begun or isinstance(event, Delta)
                yield event
            return
        except LanguageModelError as error:
            if has_begun or not question.memory:
                raise
            degraded.append(f"llm_{error.reason}")
    yield from _built_in(question, passages, degraded, deadline, user_hash)


def _numbered(results: list[Candidate]) -> list[NumberedPassage]:
    """The results with what stands beside them, each text once: where it is a result, else beside the first one."""
    told = {result.chunk_id for result in results}

    def untold(neighbours: list[Neighbour] | None) -> str:
        new = [neighbour for neighbour in neighbours or () if neighbour.chunk_id not in told]
        told.update(neighbour.chunk_id for neighbour in new)
        return "\n".join(neighbour.text for neighbour in new)

    return [
        NumberedPassage(n, one.text, one.score, before=untold(one.before), after=untold(one.after))
        for n, one in enumerate(results, 1)
    ]


def _from_model(
    model: LanguageModel, question: StreamedQuestion, passages: list[NumberedPassage], deadline: float, user_hash: str
) -> Iterator[StreamEvent]:
    messages = (answer_messages if question.memory else lambda message, _: plain_messages(message))(
        question.message, passages
    )
    deltas = 0
    with model.stream(messages, max_tokens=ANSWER_MAX_TOKENS, user=user_hash) as stream:
        while (text := stream.poll(SILENCE_SECONDS)) is not None:
            _check(deadline)
            deltas += bool(text)
            yield Delta(text) if text else Silence()
        yield Done(stream.finish_reason, stream.usage or {"completion_tokens": deltas})


def _built_in(
    question: StreamedQuestion, passages: list[NumberedPassage], degraded: list[str], deadline: float, user_hash: str
) -> Iterator[StreamEvent]:
    if question.memory:
        language = settings.MEMORY_LEXICAL_LANGUAGE
        text = answerer.extract_answer(question.message, passages, language, user=user_hash) or NOTHING_FOUND
    else:
        text = NO_MODEL
    yield from _said(text, degraded, deadline)


def _said(text: str, degraded: list[str], deadline: float) -> Iterator[StreamEvent]:
    """A text of the service's own, word by word, and the end."""
    deltas = answerer.words(text)
    for delta in deltas:
        _check(deadline)
        yield Delta(delta)
    yield Done("stop", {"completion_tokens": len(deltas)}, degraded)


def _check(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise Overloaded("The answer took too long.")
