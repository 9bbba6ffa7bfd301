"""Chats of several users as benches store and ask them: turns, and questions whose answers are known.

A folder of chats has two JSONL files: `turns.jsonl`, {chat, id, text, time?, session?, speaker?} in order, and
`questions.jsonl`, {chat, question, evidence: [ids of turns]}. Without one, words are made up, as frequent as real ones.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from deploy.bench.zipf_corpus import Texts

# Of what is made up: about what turns and questions of real chats have.
TURN_WORDS, QUESTION_WORDS, QUESTIONS_PER_CHAT = (4, 40), 6, 60


@dataclass(frozen=True)
class Turn:
    """`time` is RFC 3339, None where it is not known."""

    id: str
    text: str
    thread: str
    time: str | None = None

    def document(self) -> dict:
        """As POST /memory/index takes it."""
        body = {"doc_id": self.id, "text": self.text, "source": "chat", "thread_id": self.thread}
        return body | {"created_at": self.time} if self.time else body


@dataclass(frozen=True)
class Question:
    """`evidence` are the ids of the turns that answer it."""

    text: str
    evidence: frozenset[str]


@dataclass
class Chat:
    """One user's turns, and what is asked about them. `more` are turns that come after those."""

    user: str
    turns: list[Turn]
    questions: list[Question]
    more: list[Turn] = field(default_factory=list)


def load_chats(folder: Path | None, *, users: int, turns: int, more: int = 0) -> list[Chat]:
    """`users` chats of the first `turns` turns each, with the questions that these answer, and `more` turns to write.

    Those chats are taken that have most questions left. Raises SystemExit where the folder has not so many chats of
    that length.
    """
    if folder is None:
        return [_made_up(number, turns, more) for number in range(users)]
    said: dict[str, list[Turn]] = defaultdict(list)
    for row in _lines(folder / "turns.jsonl"):
        chat = str(row["chat"])
        said[chat].append(Turn(f"{chat}/{row['id']}", row["text"], f"{chat}/{row.get('session', 1)}", row.get("time")))
    asked: dict[str, list[Question]] = defaultdict(list)
    for row in _lines(folder / "questions.jsonl"):
        evidence = frozenset(f"{row['chat']}/{one}" for one in row["evidence"])
        asked[str(row["chat"])].append(Question(row["question"], evidence))
    chats = []
    for chat, whole in said.items():
        known = {turn.id for turn in whole[:turns]}
        questions = [question for question in asked[chat] if question.evidence and question.evidence <= known]
        if len(whole) >= turns:
            # Short chats write again what they have, under other ids.
            after = (whole[turns:] or whole) * (more // max(1, len(whole) - turns) + 1)
            later = [
                Turn(f"{turn.id}+{number}", turn.text, turn.thread, turn.time) for number, turn in enumerate(after)
            ]
            chats.append(Chat(f"chat-{chat}", whole[:turns], questions, later[:more]))
    if len(chats) < users:
        raise SystemExit(f"{folder} has {len(chats)} chats of {turns} turns, and {users} are asked for")
    return sorted(chats, key=lambda one: -len(one.questions))[:users]


def load_lines(folder: Path | None, seed: int = 1) -> tuple[list[str], list[str]]:
    """(turns, questions), whoever said and asked them; without a folder made up, enough for every bench."""
    if folder is not None:
        turns = [row["text"] for row in _lines(folder / "turns.jsonl")]
        return turns, [row["question"] for row in _lines(folder / "questions.jsonl")]
    chat = _made_up(seed, 4_000, 0)
    return [turn.text for turn in chat.turns], [question.text for question in chat.questions]


def _made_up(seed: int, turns: int, more: int) -> Chat:
    """Each question is some words of one turn."""
    texts, dice = Texts(seed), random.Random(seed)

    def turn(number: int) -> Turn:
        return Turn(f"{seed}/{number}", " ".join(texts.words(dice.randint(*TURN_WORDS))), f"{seed}/{number // 30}")

    said = [turn(number) for number in range(turns)]
    questions = []
    for about in dice.sample(said, min(QUESTIONS_PER_CHAT, turns)):
        words = about.text.split()
        questions.append(Question(" ".join(dice.sample(words, min(QUESTION_WORDS, len(words)))), frozenset({about.id})))
    return Chat(f"chat-{seed}", said, questions, [turn(turns + number) for number in range(more)])


def _lines(path: Path) -> list[dict]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from None
