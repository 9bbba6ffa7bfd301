"""The bound tenant's documents, newest first, a page at a time. In SQL, for deploy/decisions/0012."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime

from memory.errors import FieldError, InvalidInput
from memory.formats.base64url import base64url, from_base64url
from memory.indexing.derived import SOURCES_OF
from memory.indexing.expired import unexpired
from memory.keys.service_keys import service_key
from memory.retrieval.open import Opening
from memory.rls import bound_tenant, tenant_transaction
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile
from memory.security import InvalidTag, associated_data, open_sealed, seal

_CURSOR_PURPOSE = "listing-cursor"
# What lies on the other side of a position. Newer is greater: a page forward takes what is less.
_OTHER_SIDE = {"<": ">=", ">=": "<", ">": "<=", "<=": ">"}
# Of a row `d` of memory_documents: whether it has a speaker whose name is known to open as far as anybody has tried.
_IS_NAMED = """(d.speaker IS NOT NULL AND NOT EXISTS (
    SELECT FROM memory_chunks c
    WHERE c.user_hash = %(user_hash)s AND c.doc_id = d.doc_id AND c.quarantined_at IS NOT NULL))"""


@dataclass(frozen=True)
class ListedDocument:
    """What is known of a document without opening more than its speaker's name. `chars`: characters of its text."""

    doc_id: str
    source: str
    thread_id: str | None
    chunks: int
    chars: int
    derived_from: list[str]
    created_at: datetime
    updated_at: datetime
    sequence: int = 0
    speaker: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class ListingFilters:
    """What a listing is narrowed to. Times are aware; `since` is included, `until` is not."""

    source: str | None = None
    thread_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Position:
    """Between two documents: what stands on the `side` of (created_at, doc_id), in newest-first order."""

    side: str
    created_at: datetime
    doc_id: str

    def sealed(self, user_hash: str) -> str:
        """The position as a cursor. Sealed: it holds a document's id, and addresses end up in logs.

        At most 1,500 characters, so that with every filter it fits a request line.
        """
        fields = [self.side, self.created_at.isoformat(), self.doc_id]
        raw = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        return base64url(seal(raw, *_cursor_seal(user_hash)))


def position_from(user_hash: str, cursor: str) -> Position:
    """The position of a cursor given out to this user. Raises InvalidInput for any other string."""
    try:
        blob = from_base64url(cursor)
        side, created_at, doc_id = json.loads(open_sealed(blob, *_cursor_seal(user_hash)))
    except (ValueError, InvalidTag):
        raise InvalidInput([FieldError("cursor", "invalid", "Not a cursor of this listing.")]) from None
    return Position(side, datetime.fromisoformat(created_at), doc_id)


@dataclass(frozen=True)
class DocumentPage:
    """Some documents, and the cursors of the pages after and before them; None where there is none."""

    documents: list[ListedDocument]
    next: str | None
    previous: str | None


def list_documents(filters: ListingFilters, *, limit: int, cursor: str | None = None) -> DocumentPage:
    """A page of at most `limit` documents, newest first; of two of one time the greater doc_id is first.

    A cursor is a position between documents and not a number of them: whatever is written or deleted meanwhile,
    a walk sees each document that stays where it is exactly once. Raises InvalidInput, KeyUnavailable,
    DecryptionFailed.
    """
    user_hash = bound_tenant()
    position = position_from(user_hash, cursor) if cursor is not None else None
    backwards = position is not None and position.side.startswith(">")

    def read(profile: TenantProfile) -> tuple[list[ListedDocument], bool]:
        with tenant_transaction(user_hash) as tx:
            page = tx.execute(*page_statement(user_hash, filters, position, limit + 1))
            behind = None
            if position is not None:
                turned = Position(_OTHER_SIDE[position.side], position.created_at, position.doc_id)
                behind = tx.execute(*page_statement(user_hash, filters, turned, 1))
            tx.end()
            profile.verify(tx)
            rows = page.fetchall()
            is_more_behind = behind is not None and behind.fetchone() is not None
        with Opening(profile) as opening:
            return [_listed(opening, *row) for row in rows], is_more_behind

    documents, is_more_behind = under_profile(user_hash, read) or ([], False)
    is_more_ahead = len(documents) > limit
    documents = documents[:limit]
    if backwards:
        documents.reverse()
        is_more_ahead, is_more_behind = is_more_behind, is_more_ahead
    if documents:
        first, last = documents[0], documents[-1]
        after = Position("<", last.created_at, last.doc_id)
        before = Position(">", first.created_at, first.doc_id)
    elif position is not None:
        after = before = Position(_OTHER_SIDE[position.side], position.created_at, position.doc_id)
    return DocumentPage(
        documents,
        next=after.sealed(user_hash) if is_more_ahead else None,
        previous=before.sealed(user_hash) if is_more_behind else None,
    )


def _listed(opening: Opening, is_named: bool, generation: int, mac: bytes, name: bytes | None, *known):
    """A row of a page."""
    document = ListedDocument(*known)
    if not is_named:
        return document
    return replace(document, speaker=opening.speaker(document.doc_id, generation, mac, name))


def page_statement(user_hash: str, filters: ListingFilters, position: Position | None, limit: int) -> tuple[str, dict]:
    """The SQL of a page and its parameters: one range of `memory_documents_by_time`, walked one way or the other."""
    params = {"user_hash": user_hash, "limit": limit}
    conditions = ""
    for name, clause, value in (
        ("source", "source = %(source)s", filters.source),
        ("thread_id", "thread_id = %(thread_id)s", filters.thread_id),
        ("since", "created_at >= %(since)s", filters.since),
        ("until", "created_at < %(until)s", filters.until),
    ):
        if value is not None:
            conditions += f" AND {clause}"
            params[name] = value
    order = "DESC"
    if position is not None:
        order = "DESC" if position.side.startswith("<") else "ASC"
        conditions += f" AND (created_at, doc_id) {position.side} (%(at)s, %(doc_id)s)"
        params |= {"at": position.created_at, "doc_id": position.doc_id}
    sql = f"""
SELECT {_IS_NAMED}, generation, content_mac, speaker_cipher, doc_id, source, thread_id, chunk_count,
       char_count, {SOURCES_OF}, created_at, updated_at, sequence, NULL, expires_at
FROM memory_documents d
WHERE user_hash = %(user_hash)s AND {unexpired()}{conditions}
ORDER BY created_at {order}, doc_id {order}
LIMIT %(limit)s"""
    return sql, params


def _cursor_seal(user_hash: str) -> tuple[bytes, bytes]:
    """(associated data, key) of a user's cursors."""
    return associated_data(user_hash, _CURSOR_PURPOSE), service_key(_CURSOR_PURPOSE)
