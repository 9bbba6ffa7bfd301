"""A user's rows, sealed anew under the newest of his data keys, while he reads and writes.

Texts, metadata, the model's vectors, content MACs and speakers' names; nothing that is searched by changes, and no id.
A batch is read in one short transaction, opened and sealed in none, and written by compare-and-set in another: a row
that was written, removed or quarantined meanwhile stays as it is then. What does not open is quarantined, as a query
would, and left under its key.

Longer than 250 lines on purpose: what a batch reads, seals and replaces is one order of columns, said once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any, cast
from uuid import UUID

from pgvector import HalfVector

from memory.errors import DecryptionFailed
from memory.indexing.slices import join_slices
from memory.rls import TenantTransaction, tenant_transaction
from memory.sealing import columns as sealing
from memory.sealing.counts import count, counted, require_seal_budget
from memory.sealing.profile import TenantProfile
from memory.sealing.quarantine import Damage, quarantine
from memory.security import InvalidTag

CHUNKS_A_BATCH = 100
DOCUMENTS_A_BATCH = 20

_CHUNKS = """
SELECT id, doc_id, chunk_index, char_start, char_end, source, thread_id, created_at, sequence, generation,
       text_cipher, meta_cipher, emb_cipher, halfvec_send(embedding)
FROM memory_chunks
WHERE user_hash = %s AND id > %s AND generation <> %s AND quarantined_at IS NULL ORDER BY id LIMIT %s"""
_DOCUMENTS = """
SELECT doc_id, source, thread_id, created_at, sequence, char_count, generation, content_mac, meta_cipher,
       speaker_cipher
FROM memory_documents WHERE user_hash = %s AND doc_id > %s AND generation <> %s ORDER BY doc_id LIMIT %s"""
_SLICES = """
SELECT doc_id, id, chunk_index, char_start, char_end, generation, text_cipher FROM memory_chunks
WHERE user_hash = %s AND space = %s AND doc_id = ANY(%s) ORDER BY doc_id, chunk_index"""
_REPLACE_CHUNKS = """
UPDATE memory_chunks c
SET generation = %s, text_cipher = sealed.text, meta_cipher = sealed.meta, emb_cipher = sealed.emb
FROM unnest(%s::uuid[], %s::integer[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bytea[])
    AS sealed (id, generation, old_text, old_meta, old_emb, text, meta, emb)
WHERE c.user_hash = %s AND c.id = sealed.id AND c.generation = sealed.generation AND c.text_cipher = sealed.old_text
    AND c.meta_cipher = sealed.old_meta AND c.emb_cipher = sealed.old_emb AND c.quarantined_at IS NULL"""
_REPLACE_DOCUMENTS = """
UPDATE memory_documents d
SET generation = %s, content_mac = sealed.mac, meta_cipher = sealed.meta, speaker_cipher = sealed.speaker
FROM unnest(%s::text[], %s::integer[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bytea[], %s::bytea[])
    AS sealed (doc_id, generation, old_mac, old_meta, old_speaker, mac, meta, speaker)
WHERE d.user_hash = %s AND d.doc_id = sealed.doc_id AND d.generation = sealed.generation
    AND d.content_mac = sealed.old_mac AND d.meta_cipher = sealed.old_meta
    AND d.speaker_cipher IS NOT DISTINCT FROM sealed.old_speaker"""

# What a row was read as and what it is to be: id, generation, and then the sealed columns before and after.
Replacement = tuple[Any, ...]


@dataclass
class Resealed:
    """Rows, by what became of them. `left`: what did not open, or belongs to what is quarantined."""

    chunks: int = 0
    documents: int = 0
    # Written or removed by somebody else between the look and the replacement.
    lost: int = 0
    left: int = 0


@dataclass
class _Batch:
    """What was made of rows that were read: replacements, how many values were sealed, what did not open."""

    last: UUID | str | None = None
    size: int = 0
    replacements: list[Replacement] = field(default_factory=list)
    seals: int = 0
    damages: list[Damage] = field(default_factory=list)
    left: int = 0


@dataclass(frozen=True)
class _Row:
    """A document's row, as `_DOCUMENTS` has it."""

    doc_id: str
    source: str
    thread_id: str | None
    created_at: datetime
    sequence: int
    char_count: int
    generation: int
    mac: bytes
    meta_cipher: bytes
    speaker_cipher: bytes | None

    @property
    def origin(self) -> sealing.Origin:
        return sealing.Origin(self.source, self.thread_id, self.created_at, self.sequence)


def reseal(profile: TenantProfile, done: Resealed) -> Iterator[int]:
    """Seal what is not under `profile`'s newest key anew, counted in `done`; how many rows after each batch.

    Documents first, since a content MAC needs the text. Raises StaleKeys where the profile does not stand any more,
    also for a user who was erased; KeyUnavailable, database errors. What was done before stays done.
    """
    last: UUID | str = ""
    while (documents := _documents(profile, str(last))).size:
        done.documents += _write(profile, documents, _REPLACE_DOCUMENTS, done)
        last = cast(str, documents.last)
        yield documents.size
    last = UUID(int=0)
    while (chunks := _chunks(profile, last)).size:
        done.chunks += _write(profile, chunks, _REPLACE_CHUNKS, done)
        last = cast(UUID, chunks.last)
        yield chunks.size


def _chunks(profile: TenantProfile, after: UUID) -> _Batch:
    with tenant_transaction(profile.user_hash) as tx:
        found = tx.execute(_CHUNKS, [tx.user_hash, after, profile.generation, CHUNKS_A_BATCH])
        profile.verify(tx)
        rows = found.fetchall()
    batch = _Batch(rows[-1][0] if rows else None, len(rows))
    for row in rows:
        _reseal_chunk(profile, row, batch)
    return batch


def _reseal_chunk(profile: TenantProfile, row: tuple[Any, ...], batch: _Batch) -> None:
    chunk_id, doc_id, index, start, end, source, thread_id, created_at, sequence, generation = row[:10]
    text_cipher, meta_cipher, emb_cipher, vector = map(bytes, row[10:])
    if generation not in profile.generations:
        batch.damages.append(Damage("generation", chunk_id))
        batch.left += 1
        return
    old, new = profile.data_key(generation), profile.newest
    place = sealing.Place(chunk_id, doc_id, index, start, end, sealing.Origin(source, thread_id, created_at, sequence))
    searchable = HalfVector.from_binary(vector)
    try:
        text = sealing.open_text(old, place, text_cipher)
    except InvalidTag:
        batch.damages.append(Damage("text_cipher", chunk_id, text_cipher))
        batch.left += 1
        return
    try:
        meta = sealing.open_chunk_metadata(old, chunk_id, meta_cipher)
    except (InvalidTag, ValueError):
        batch.damages.append(Damage("meta_cipher", chunk_id, meta_cipher))
        batch.left += 1
        return
    try:
        own = sealing.open_vector(old, chunk_id, emb_cipher, searchable)
    except InvalidTag:
        # Nothing reads it but this, so nothing else quarantines its row.
        batch.left += 1
        return
    after = (
        sealing.seal_text(new, place, text),
        sealing.seal_chunk_metadata(new, chunk_id, meta),
        sealing.seal_vector(new, chunk_id, own, searchable),
    )
    batch.seals += len(after)
    batch.replacements.append((chunk_id, generation, text_cipher, meta_cipher, emb_cipher, *after))


def _documents(profile: TenantProfile, after: str) -> _Batch:
    with tenant_transaction(profile.user_hash) as tx:
        found = tx.execute(_DOCUMENTS, [tx.user_hash, after, profile.generation, DOCUMENTS_A_BATCH])
        profile.verify(tx)
        rows = [_Row(*row[:7], *map(_bytes, row[7:])) for row in found.fetchall()]
        doc_ids = [row.doc_id for row in rows]
        slices = tx.execute(_SLICES, [tx.user_hash, profile.space, doc_ids]).fetchall() if rows else []
    batch = _Batch(rows[-1].doc_id if rows else None, len(rows))
    slices_of = {doc_id: [row[1:] for row in group] for doc_id, group in groupby(slices, key=lambda row: row[0])}
    for row in rows:
        _reseal_document(profile, row, slices_of.get(row.doc_id, []), batch)
    return batch


def _bytes(value: memoryview | bytes | None) -> bytes | None:
    return None if value is None else bytes(value)


def _reseal_document(profile: TenantProfile, row: _Row, slices: Sequence[tuple[Any, ...]], batch: _Batch) -> None:
    """A document whose text does not come out as its MAC says is left: its chunks say themselves what is damaged."""
    new = profile.newest
    try:
        if row.generation not in profile.generations:
            raise DecryptionFailed()
        old = profile.data_key(row.generation)
        text = _text(profile, row, slices)
        if sealing.content_mac(old, text) != row.mac:
            raise DecryptionFailed()
    except (InvalidTag, ValueError, DecryptionFailed):
        batch.left += 1
        return
    try:
        metadata = sealing.open_document_metadata(old, row.doc_id, row.mac, row.origin, row.meta_cipher)
    except (InvalidTag, ValueError):
        batch.damages.append(Damage("document_meta_cipher", row.doc_id, row.meta_cipher))
        batch.left += 1
        return
    mac = sealing.content_mac(new, text)
    speaker = None
    if row.speaker_cipher is not None:
        try:
            name = sealing.open_speaker(old, row.doc_id, row.mac, row.speaker_cipher)
        except (InvalidTag, ValueError):
            batch.damages.append(Damage("speaker_cipher", row.doc_id, row.speaker_cipher))
            batch.left += 1
            return
        speaker = sealing.seal_speaker(new, row.doc_id, mac, name)
        batch.seals += 1
    meta = sealing.seal_document_metadata(new, row.doc_id, mac, row.origin, metadata)
    batch.seals += 1
    before = row.mac, row.meta_cipher, row.speaker_cipher
    batch.replacements.append((row.doc_id, row.generation, *before, mac, meta, speaker))


def _text(profile: TenantProfile, row: _Row, slices: Sequence[tuple[Any, ...]]) -> str:
    """Raises InvalidTag, ValueError for a gap, DecryptionFailed where a key or a part is not there."""
    opened = []
    for chunk_id, index, start, end, generation, text_cipher in slices:
        if generation not in profile.generations:
            raise DecryptionFailed()
        place = sealing.Place(chunk_id, row.doc_id, index, start, end, row.origin)
        opened.append((start, sealing.open_text(profile.data_key(generation), place, bytes(text_cipher))))
    text = join_slices(opened)
    if len(text) != row.char_count:
        raise DecryptionFailed()
    return text


def _write(profile: TenantProfile, batch: _Batch, sql: str, done: Resealed) -> int:
    """How many rows were replaced. All that was sealed is counted, whether its row was still there or not."""
    done.left += batch.left
    if batch.damages:
        quarantine(profile.user_hash, batch.damages)
    if not batch.replacements:
        return 0
    with tenant_transaction(profile.user_hash, write=True) as tx:
        replaced = _replace(tx, profile, batch, sql)
    done.lost += len(batch.replacements) - replaced
    return replaced


def _replace(tx: TenantTransaction, profile: TenantProfile, batch: _Batch, sql: str) -> int:
    require_seal_budget(profile.verify(tx))
    columns = [list(column) for column in zip(*batch.replacements, strict=True)]
    cursor = tx.execute(sql, [profile.generation, *columns, tx.user_hash])
    counted(count(tx, seals=batch.seals))
    return cursor.rowcount
