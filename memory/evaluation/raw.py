"""What a reader of a format finds in a folder, before it is judged and joined; and what the readers share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class CollectionError(Exception):
    """The folder holds no collection that can be read; the message says which file and why."""


@dataclass(frozen=True)
class RawCollection:
    """What a reader found: (id, title, text), (id, text), and (query id, document id, grade), in the files' order."""

    documents: list[tuple[str, str, str]]
    queries: list[tuple[str, str]]
    grades: list[tuple[str, str, int]]


def titled(title: str, text: str) -> str:
    """A title, a line feed and the text; what there is of them."""
    return "\n".join(part for part in (title.strip(), text.strip()) if part)


def only(folder: Path, paths: list[Path], what: str) -> Path:
    """The one path of `paths`. Raises CollectionError when there are none or several."""
    if len(paths) != 1:
        raise CollectionError(f"{folder}: expected one file with the {what}, found {len(paths)}")
    return paths[0]
