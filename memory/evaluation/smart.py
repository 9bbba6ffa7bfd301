"""The SMART system's format (Salton, Cornell): records of `.I <id>`, then fields, each under a line of its letter.

    .I 1
    .T
    the title
    .W
    the text

`.T` is the title, `.W` the text, of a document as of a query: in CISI half of the queries are abstracts under a title
of their own. Author, place and cross-references are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from memory.evaluation.raw import RawCollection, only, titled

_RECORD = re.compile(r"^\.I\s+(\S+)\s*$")
_FIELD = re.compile(r"^\.([A-Z])\s*$")


def recognises(folder: Path) -> bool:
    return bool(_named(folder, ".all") and _named(folder, ".qry"))


def read(folder: Path) -> RawCollection:
    """Judgements are lines of a query's and a document's number; a third column, if any, is no grade."""
    documents = _records(only(folder, _named(folder, ".all"), "documents (.ALL)"))
    queries = _records(only(folder, _named(folder, ".qry"), "queries (.QRY)"))
    judgements = only(folder, _named(folder, ".rel"), "judgements (.REL)")
    grades = []
    for number, line in enumerate(judgements.read_text("latin-1").splitlines(), start=1):
        columns = line.split()
        if len(columns) == 1:
            raise ValueError(f"line {number} of {judgements.name} names no document")
        if columns:
            grades.append((columns[0], columns[1], 1))
    return RawCollection(
        documents=[(record_id, fields.get("T", ""), fields.get("W", "")) for record_id, fields in documents],
        queries=[(record_id, titled(fields.get("T", ""), fields.get("W", ""))) for record_id, fields in queries],
        grades=grades,
    )


def _named(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == suffix)


def _records(path: Path) -> list[tuple[str, dict[str, str]]]:
    """(id, text by field letter) of each record. The format has no encoding; Latin-1 reads any byte."""
    records: list[tuple[str, dict[str, list[str]]]] = []
    lines: list[str] = []
    for number, line in enumerate(path.read_text("latin-1").splitlines(), start=1):
        if record := _RECORD.match(line):
            records.append((record[1], {}))
            lines = []
        elif not records:
            if line.strip():
                raise ValueError(f"line {number} of {path.name} stands before the first record")
        elif field := _FIELD.match(line):
            lines = records[-1][1].setdefault(field[1], [])
        else:
            lines.append(line)
    return [
        (record_id, {letter: "\n".join(found) for letter, found in fields.items()}) for record_id, fields in records
    ]
