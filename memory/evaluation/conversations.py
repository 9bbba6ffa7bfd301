"""Conversations as JSON Lines: `turns.jsonl`, in the order they were said, and `questions.jsonl`.

    {"chat": 1, "session": 2, "id": "D2:7", "time": "2024-01-05T10:00:00Z", "speaker": "Ann", "text": "Yes, last week!"}
    {"chat": 1, "question": "When did Ann see a doctor?", "category": "time", "evidence": ["D2:7"]}

A chat is a user, a session a thread, a turn a document; ids count within their chat. Recall is of a question's turns of
evidence.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from memory.evaluation.json_lines import rows
from memory.evaluation.raw import Asked, RawCollection, Turn, moment


def recognises(folder: Path) -> bool:
    return (folder / "turns.jsonl").is_file() and (folder / "questions.jsonl").is_file()


def read(folder: Path) -> RawCollection:
    """Document ids are `chat/id`, threads `chat/session`, query ids `chat/number`, from 1 in each chat."""
    documents, turns = [], {}
    said: Counter[str] = Counter()
    for row in rows(folder / "turns.jsonl", "chat", "session", "id", "time", "speaker", "text"):
        doc_id, thread_id = f"{row['chat']}/{row['id']}", f"{row['chat']}/{row['session']}"
        documents.append((doc_id, "", row["text"]))
        try:
            created_at = moment(row["time"])
        except (TypeError, ValueError):
            raise ValueError(f"turn {doc_id}: its time is none") from None
        turns[doc_id] = Turn(str(row["chat"]), thread_id, created_at, said[thread_id], str(row["speaker"]))
        said[thread_id] += 1
    queries, asked, grades = [], {}, []
    count: Counter[str] = Counter()
    for row in rows(folder / "questions.jsonl", "chat", "question", "evidence"):
        chat = str(row["chat"])
        count[chat] += 1
        query_id = f"{chat}/{count[chat]}"
        queries.append((query_id, row["question"]))
        asked[query_id] = Asked(chat, str(row.get("category", "")))
        grades += [(query_id, f"{chat}/{turn_id}", 1) for turn_id in row["evidence"]]
    return RawCollection(documents, queries, grades, turns, asked)
