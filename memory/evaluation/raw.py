"""What a reader of a format finds in a folder, before it is judged and joined; and what the readers share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path


class CollectionError(Exception):
    """The folder holds no collection that can be read; the message says which file and why."""


@dataclass(frozen=True)
class Turn:
    """What a document is stored with beside its text, and the name of the user whose memory it is in."""

    user: str = ""
    thread_id: str | None = None
    created_at: datetime | None = None
    sequence: int = 0
    speaker: str | None = None


@dataclass(frozen=True)
class Asked:
    """The name of the user whose memory a query is put to, and what kind of question it is."""

    user: str = ""
    category: str = ""


@dataclass(frozen=True)
class RawCollection:
    """What a reader found: (id, title, text), (id, text), and (query id, document id, grade), in the files' order.

    `turns` by document id and `asked` by query id, of those that say such things of themselves.
    """

    documents: list[tuple[str, str, str]]
    queries: list[tuple[str, str]]
    grades: list[tuple[str, str, int]]
    turns: Mapping[str, Turn] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)


def questions_of(path: Path) -> list[str]:
    """A question a line; blank lines are none. Raises CollectionError."""
    try:
        found = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CollectionError(f"{path}: {error}") from error
    if not found:
        raise CollectionError(f"{path} holds no question")
    return found


def moment(text: str) -> datetime:
    """An RFC 3339 moment; one without an offset is UTC. Raises ValueError."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def titled(title: str, text: str) -> str:
    """A title, a line feed and the text; what there is of them."""
    return "\n".join(part for part in (title.strip(), text.strip()) if part)


def only(folder: Path, paths: list[Path], what: str) -> Path:
    """The one path of `paths`. Raises CollectionError when there are none or several."""
    if len(paths) != 1:
        raise CollectionError(f"{folder}: expected one file with the {what}, found {len(paths)}")
    return paths[0]
