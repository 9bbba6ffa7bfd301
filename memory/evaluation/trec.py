"""TREC's format: documents and topics in SGML, judgements in four columns (trec.nist.gov/data/qrels_eng).

    <doc><docno>1</docno><title>..</title><text>..</text></doc>
    <top><num>1</num><title>..</title></top>
    1 0 184 1

Files are seldom well-formed XML (no root, bare ampersands), so tags are searched for, not parsed.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

from memory.evaluation.raw import RawCollection, only

_SUFFIXES = {".xml", ".sgml", ".sgm", ".trec"}


def recognises(folder: Path) -> bool:
    return bool(_marked_up(folder)) and bool(_judgements(folder))


def read(folder: Path) -> RawCollection:
    """A topic's text is its `<title>`. Judgements: topic, iteration, document, grade."""
    texts = [(path, path.read_text("utf-8")) for path in _marked_up(folder)]
    of_documents = only(folder, [path for path, text in texts if _blocks(text, "doc")], "documents (<doc>)")
    of_topics = only(folder, [path for path, text in texts if _blocks(text, "top")], "queries (<top>)")
    by_path = dict(texts)
    judgements = only(folder, _judgements(folder), "judgements (*qrel*)")
    grades = []
    for number, line in enumerate(judgements.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            query_id, _, doc_id, grade = line.split()
            grades.append((query_id, doc_id, int(grade)))
        except ValueError:
            raise ValueError(f"line {number} of {judgements.name} is not topic, iteration, document, grade") from None
    return RawCollection(
        documents=[
            (_field(block, "docno"), _field(block, "title"), _field(block, "text"))
            for block in _blocks(by_path[of_documents], "doc")
        ],
        queries=[(_number(block), _field(block, "title")) for block in _blocks(by_path[of_topics], "top")],
        grades=grades,
    )


def _marked_up(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _judgements(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if "qrel" in path.name.lower() and path.is_file())


def _blocks(text: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S | re.I)


def _field(block: str, tag: str) -> str:
    """The first field's text; older topics leave end tags out, so it may end at the next tag."""
    found = re.search(rf"<{tag}>(.*?)(?:</{tag}>|<\w+>|\Z)", block, re.S | re.I)
    return html.unescape(found[1]).strip() if found else ""


def _number(block: str) -> str:
    return _field(block, "num").removeprefix("Number:").strip()
