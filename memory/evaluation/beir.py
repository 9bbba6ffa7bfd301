"""BEIR's format: JSON Lines for documents and queries, tab-separated judgements (github.com/beir-cellar/beir)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from memory.evaluation.raw import RawCollection, only


def recognises(folder: Path) -> bool:
    return (folder / "corpus.jsonl").is_file() and (folder / "queries.jsonl").is_file()


def read(folder: Path) -> RawCollection:
    """`_id`, `title`, `text` of documents; `_id`, `text` of queries; `query-id corpus-id score` with a header line."""
    documents = [(str(row["_id"]), row.get("title") or "", row["text"]) for row in _rows(folder / "corpus.jsonl")]
    queries = [(str(row["_id"]), row["text"]) for row in _rows(folder / "queries.jsonl")]
    grades = []
    for number, line in enumerate(_judgements(folder).read_text("utf-8").splitlines(), start=1):
        if not line.strip() or (number == 1 and line.startswith("query-id")):
            continue
        try:
            query_id, doc_id, grade = line.split("\t")
            grades.append((query_id, doc_id, int(grade)))
        except ValueError:
            raise ValueError(f"line {number} of the judgements is not query, document and grade") from None
    return RawCollection(documents, queries, grades)


def _judgements(folder: Path) -> Path:
    test = folder / "qrels" / "test.tsv"
    return test if test.is_file() else only(folder, sorted(folder.glob("qrels/*.tsv")), "judgements (qrels/*.tsv)")


def _rows(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                row["_id"], row["text"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"line {number} of {path.name} is not an object with _id and text") from None
            yield row
