"""Every sealed column, tried for real: what is sealed for one place opens in no other, nor once a bit is changed.

Each blob is made by the function that the service seals that column with, and opened by the one that it opens it with.
It is moved to another user, row, column and generation under the very key that sealed it, so that what refuses is the
associated data. Where columns have sub-keys of their own, those refuse a move between them, too. Any end but InvalidTag
counts as opened: what does not parse was decrypted all the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import numpy as np
from pgvector import HalfVector

from memory.maintenance.gate_lines import Line, tried
from memory.sealing import columns
from memory.sealing.keyring import open_user_id, seal_user_id
from memory.sealing.profile import DATA_KEY_COLUMN, SEARCH_KEY_COLUMN
from memory.sealing.providers import KeyContext, unwrap_key, wrap_key
from memory.sealing.user_keys import DataKey
from memory.security import NONCE_BYTES, TAG_BYTES, InvalidTag

BINDING, TAMPERING = "what each sealed column is bound to", "bits and bytes changed"
FLIPS_MAX = 32
_SEALED_COLUMNS = """
SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND NOT a.attisdropped AND (a.attname LIKE '%\\_cipher' OR a.attname LIKE 'sealed\\_%') ORDER BY 1"""


@dataclass(frozen=True)
class _Row:
    """Everything that any column is bound to: the values of one made-up row, and the data key it is sealed under."""

    key: DataKey
    id: UUID = field(default_factory=uuid4)
    doc_id: str = "gate-document"
    chunk_index: int = 3
    start: int = 40
    end: int = 90
    source: str = "gate"
    thread_id: str = "gate-thread"
    created_at: datetime = datetime(2025, 3, 1, 12, 30, tzinfo=UTC)
    sequence: int = 2
    mac: bytes = b"m" * 32
    request_mac: bytes = b"r" * 32
    searchable: tuple[float, ...] = (0.5, -0.25, 0.125, 1.0)

    def origin(self) -> columns.Origin:
        return columns.Origin(self.source, self.thread_id, self.created_at, self.sequence)

    def place(self) -> columns.Place:
        return columns.Place(self.id, self.doc_id, self.chunk_index, self.start, self.end, self.origin())

    def vector(self) -> HalfVector:
        return HalfVector(list(self.searchable))


# Another value of each field.
_OTHERS: dict[str, Callable[[Any], Any]] = {
    "id": lambda value: uuid4(),
    "doc_id": lambda value: value + "-other",
    "chunk_index": lambda value: value + 1,
    "start": lambda value: value + 1,
    "end": lambda value: value + 1,
    "source": lambda value: value + "-other",
    "thread_id": lambda value: value + "-other",
    "created_at": lambda value: value + timedelta(microseconds=1),
    "sequence": lambda value: value + 1,
    "mac": lambda value: b"o" * 32,
    "request_mac": lambda value: b"o" * 32,
    "searchable": lambda value: (*value[:-1], value[-1] + 0.5),
}
_ORIGIN = ("source", "thread_id", "created_at", "sequence")


@dataclass(frozen=True)
class _Column:
    """How the service seals and opens one column; `row` names what says which row it is, `beside` what it repeats."""

    name: str
    seal: Callable[[_Row], bytes]
    open: Callable[[_Row, bytes], Any]
    row: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


_VECTOR = np.asarray([0.1, 0.2, 0.3, 0.4], "<f4")
_COLUMNS = (
    _Column(
        columns.TEXT_COLUMN, lambda r: columns.seal_text(r.key, r.place(), "The text of a chunk."),
        lambda r, blob: columns.open_text(r.key, r.place(), blob), ("id",),
        ("doc_id", "chunk_index", "start", "end", *_ORIGIN),
    ),
    _Column(
        columns.CHUNK_META_COLUMN, lambda r: columns.seal_chunk_metadata(r.key, r.id, {"a": 1}),
        lambda r, blob: columns.open_chunk_metadata(r.key, r.id, blob), ("id",),
    ),
    _Column(
        columns.EMBEDDING_COLUMN, lambda r: columns.seal_vector(r.key, r.id, _VECTOR, r.vector()),
        lambda r, blob: columns.open_vector(r.key, r.id, blob, r.vector()), ("id",), ("searchable",),
    ),
    _Column(
        columns.DOCUMENT_META_COLUMN,
        lambda r: columns.seal_document_metadata(r.key, r.doc_id, r.mac, r.origin(), {"a": 1}),
        lambda r, blob: columns.open_document_metadata(r.key, r.doc_id, r.mac, r.origin(), blob), ("doc_id",),
        ("mac", *_ORIGIN),
    ),
    _Column(
        columns.SPEAKER_COLUMN, lambda r: columns.seal_speaker(r.key, r.doc_id, r.mac, "Ada"),
        lambda r, blob: columns.open_speaker(r.key, r.doc_id, r.mac, blob), ("doc_id",), ("mac",),
    ),
    _Column(
        columns.ANSWER_COLUMN, lambda r: columns.seal_answer(r.key, r.mac, r.request_mac, b"{}"),
        lambda r, blob: columns.open_answer(r.key, r.mac, r.request_mac, blob), ("mac",), ("request_mac",),
    ),
    _Column(
        "memory_tenants.user_id_cipher", lambda r: seal_user_id(r.key, "gate-user"),
        lambda r, blob: open_user_id(r.key, blob),
    ),
)  # fmt: skip
_KEYS = (DATA_KEY_COLUMN, SEARCH_KEY_COLUMN)


def binding_lines(connection: Any) -> Iterator[Line]:
    """All that can be tried without a row: `connection` is only asked which sealed columns there are.

    Wraps keys as the deployment does. Raises KeyUnavailable where it cannot.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SEALED_COLUMNS)
        there = {name for (name,) in cursor.fetchall()}
    known = {column.name for column in _COLUMNS} | set(_KEYS)
    problems = [f"nothing is tried of {name}" for name in sorted(there - known)]
    problems += [f"there is no {name}" for name in sorted(known - there)]
    told = f"{len(known)} columns"
    yield tried(BINDING, "every sealed column of the database is tried", problems, target="all", value=told)
    here = _Row(DataKey(os.urandom(32).hex(), 1, secret := os.urandom(32)))
    stranger = replace(here, key=DataKey(os.urandom(32).hex(), 1, secret))
    later = replace(here, key=DataKey(here.key.user_hash, 2, secret))
    for column in _COLUMNS:
        yield from _of_column(column, here, stranger, later)
    for name in _KEYS:
        yield from _of_key(name, here.key.user_hash, stranger.key.user_hash)


def _of_column(column: _Column, here: _Row, stranger: _Row, later: _Row) -> Iterator[Line]:
    blob = column.seal(here)
    yield _opens(column.name, lambda: column.open(here, blob))
    yield _refused(column.name, "another user", [("", lambda: column.open(stranger, blob))])
    yield _refused(column.name, "another generation", [("", lambda: column.open(later, blob))])
    for move, names in (("another row", column.row), ("other values beside it", column.beside)):
        moved = [(name, replace(here, **{name: _OTHERS[name](getattr(here, name))})) for name in names]
        if moved:
            yield _refused(column.name, move, [(name, partial(column.open, row, blob)) for name, row in moved])
    elsewhere = [(other.name, partial(other.open, here, blob)) for other in _COLUMNS if other is not column]
    yield _refused(column.name, "another column", elsewhere)
    yield from _tampered(column.name, blob, lambda changed: column.open(here, changed))


def _of_key(name: str, user_hash: str, stranger_hash: str) -> Iterator[Line]:
    """A wrapped key, bound to its user, its column, and its generation or space."""
    context = KeyContext(user_hash, name, 1)
    key_id, blob = wrap_key(os.urandom(32), context)
    [other] = [other for other in _KEYS if other != name]
    yield _opens(name, lambda: unwrap_key(key_id, blob, context))
    for move, elsewhere in (
        ("another user", replace(context, user_hash=stranger_hash)),
        ("another generation", replace(context, number=2)),
        ("another column", replace(context, column=other)),
    ):
        yield _refused(name, move, [("", partial(unwrap_key, key_id, blob, elsewhere))])
    yield from _tampered(name, blob, lambda changed: unwrap_key(key_id, changed, context))


def _tampered(name: str, blob: bytes, open_blob: Callable[[bytes], Any]) -> Iterator[Line]:
    """Bits flipped all over the nonce, the ciphertext and the tag, and blobs of another length."""
    regions = {
        "nonce": range(NONCE_BYTES * 8),
        "ciphertext": range(NONCE_BYTES * 8, (len(blob) - TAG_BYTES) * 8),
        "tag": range((len(blob) - TAG_BYTES) * 8, len(blob) * 8),
    }
    for region, bits in regions.items():
        chosen = bits[:: max(1, len(bits) // FLIPS_MAX)]
        attempts = [(f"bit {bit}", partial(open_blob, _flipped(blob, bit))) for bit in chosen]
        yield _refused(name, f"a flipped bit of the {region}", attempts, TAMPERING, told=f"{len(attempts)} refused")
    lengths = {"nothing": b"", "cut by one": blob[:-1], "one more": blob + b"\0", "nonce and tag alone": blob[:28]}
    attempts = [(what, partial(open_blob, changed)) for what, changed in lengths.items()]
    yield _refused(name, "another length", attempts, TAMPERING, told=f"{len(attempts)} refused")


def _flipped(blob: bytes, bit: int) -> bytes:
    changed = bytearray(blob)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _opens(name: str, attempt: Callable[[], Any]) -> Line:
    """Without this one, nothing that is refused would prove anything."""
    problems = [] if _is_opened(attempt) else ["it does not open where it stands"]
    return tried(BINDING, f"{name}: where it stands", problems, target="opens", value="opens")


def _refused(
    name: str, move: str, attempts: Sequence[tuple[str, Callable[[], Any]]], part: str = BINDING, told: str = "refused"
) -> Line:
    opened = [f"opened {what}".rstrip() for what, attempt in attempts if _is_opened(attempt)]
    return tried(part, f"{name}: {move}", opened, value=told)


def _is_opened(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except InvalidTag:
        return False
    except (ValueError, KeyError, TypeError):
        return True
    return True
