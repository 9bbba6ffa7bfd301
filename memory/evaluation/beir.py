"""BEIR's format: JSON Lines for documents and queries, tab-separated judgements (github.com/beir-cellar/beir).

Documents that are turns of a conversation say so, and queries whom they ask, in members of their own or of `metadata`:

    {"_id": "7", "text": "Yes, last week!", "metadata": {"user": "c1", "thread": "s1", "time": "2024-01-05T10:00:00Z",
                                                         "sequence": 3, "speaker": "Ann"}}
    {"_id": "q1", "text": "When did Ann see a doctor?", "metadata": {"user": "c1", "category": "time"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memory.evaluation.json_lines import rows
from memory.evaluation.raw import Asked, RawCollection, Turn, moment, only


def recognises(folder: Path) -> bool:
    return (folder / "corpus.jsonl").is_file() and (folder / "queries.jsonl").is_file()


def read(folder: Path) -> RawCollection:
    """`_id`, `title`, `text` of documents; `_id`, `text` of queries; `query-id corpus-id score` with a header line."""
    documents, turns = [], {}
    for row in rows(folder / "corpus.jsonl", "_id", "text"):
        doc_id = str(row["_id"])
        documents.append((doc_id, row.get("title") or "", row["text"]))
        if (turn := _turn(doc_id, _said_of(row))) != Turn():
            turns[doc_id] = turn
    queries, asked = [], {}
    for row in rows(folder / "queries.jsonl", "_id", "text"):
        query_id, said = str(row["_id"]), _said_of(row)
        queries.append((query_id, row["text"]))
        asked[query_id] = Asked(_text(said, "user") or "", _text(said, "category") or "")
    grades = []
    for number, line in enumerate(_judgements(folder).read_text("utf-8").splitlines(), start=1):
        if not line.strip() or (number == 1 and line.startswith("query-id")):
            continue
        try:
            query_id, doc_id, grade = line.split("\t")
            grades.append((query_id, doc_id, int(grade)))
        except ValueError:
            raise ValueError(f"line {number} of the judgements is not query, document and grade") from None
    return RawCollection(documents, queries, grades, turns, asked)


def _said_of(row: dict) -> Mapping[str, Any]:
    metadata = row.get("metadata")
    return (metadata if isinstance(metadata, dict) else {}) | row


def _turn(doc_id: str, said: Mapping[str, Any]) -> Turn:
    time = _text(said, "time", "created_at")
    try:
        return Turn(
            user=_text(said, "user") or "",
            thread_id=_text(said, "thread", "thread_id"),
            created_at=None if time is None else moment(time),
            sequence=int(said.get("sequence") or 0),
            speaker=_text(said, "speaker"),
        )
    except (TypeError, ValueError):
        raise ValueError(f"document {doc_id}: its time or its sequence is none") from None


def _text(said: Mapping[str, Any], *names: str) -> str | None:
    """The first member of these names that says something, as text: ids are often numbers."""
    return next((str(said[name]) for name in names if said.get(name) not in (None, "")), None)


def _judgements(folder: Path) -> Path:
    test = folder / "qrels" / "test.tsv"
    return test if test.is_file() else only(folder, sorted(folder.glob("qrels/*.tsv")), "judgements (qrels/*.tsv)")
