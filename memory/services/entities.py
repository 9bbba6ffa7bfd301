"""Name who and what a text mentions; for stored chunks, keep it sealed beside them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from uuid import UUID

from memory.admission.deadline import deadline_at, require_time
from memory.errors import DecryptionFailed, NotFound, Overloaded, StaleKeys, TooManyChunks
from memory.indexing.slices import join_slices
from memory.language.entities import EntityRecognizer, Mention, find_mentions, merge, recognizer
from memory.limits import CHUNKS_PER_CALL_MAX
from memory.retrieval.chunks import ChunkScope, StoredChunk, read_chunks
from memory.retrieval.open import Opening
from memory.rls import bound_tenant, tenant_transaction
from memory.sealing.columns import seal_chunk_metadata
from memory.sealing.counts import count, count_old_seals, counted, require_seal_budget
from memory.sealing.profile import TenantProfile
from memory.services.index import active_embedder, chunks_of

ENTITIES = "entities"  # the member of a chunk's own metadata

_WRITE = """
UPDATE memory_chunks c SET meta_cipher = sealed.after, updated_at = now()
FROM unnest(%s::uuid[], %s::bytea[], %s::bytea[], %s::integer[]) AS sealed (id, before, after, generation)
WHERE c.user_hash = %s AND c.id = sealed.id AND c.space = %s::smallint
  AND c.meta_cipher = sealed.before AND c.generation = sealed.generation
RETURNING c.id"""


@dataclass(frozen=True)
class FoundEntity:
    """One entity; a mention is (chunk id or None, start, end), characters of its document or of the text as sent."""

    text: str
    label: str
    mentions: tuple[tuple[UUID | None, int, int], ...]


@dataclass(frozen=True)
class FoundEntities:
    """The most mentioned first. `stored`: whether they now stand in the chunks' sealed metadata."""

    entities: list[FoundEntity]
    backend: str
    stored: bool


class _Changed(Exception):
    """What was read is no longer what is stored."""


def entities_in_text(text: str, labels: Sequence[str] = ()) -> FoundEntities:
    """The entities of `text` from the bound tenant, of `labels` only where there are any. Stores nothing.

    A text has the limits of one that is indexed. Raises TooManyChunks, Overloaded, ModelUnavailable, SpaceMismatch.
    """
    user_hash = bound_tenant()
    chunks_of([text], *active_embedder(user_hash))
    model = recognizer(user_hash)
    mentions = _mentions(model, text, labels, user_hash)
    found = [
        FoundEntity(entity.text, entity.label, tuple((None, m.start, m.end) for m in entity.mentions))
        for entity in merge(mentions)
    ]
    return FoundEntities(found, model.backend, stored=False)


def entities_in_memory(scope: ChunkScope, labels: Sequence[str] = ()) -> FoundEntities:
    """The entities of the bound tenant's document or thread, kept with its chunks in place of what was found before.

    1. Read the chunks; at most 200 a call.
    2. Open them and put each document's text together, so that what stands in two chunks is seen once.
    3. Recognise; no database connection is held.
    4. Seal each chunk's own mentions into its metadata.
    5. Write, if the chunks are still those that were read; else all once more.

    Raises NotFound, TooManyChunks, Overloaded (recognition takes too long, or documents keep changing),
    ModelUnavailable, KeyUnavailable, DecryptionFailed, database errors; whatever it raises, nothing was stored.
    """
    user_hash = bound_tenant()
    model = recognizer(user_hash)
    for _ in range(2):
        read = read_chunks(scope, limit=CHUNKS_PER_CALL_MAX + 1)
        if read.profile is None or not read.chunks:
            raise NotFound()
        if len(read.chunks) > CHUNKS_PER_CALL_MAX:
            raise TooManyChunks(detail=f"More than {CHUNKS_PER_CALL_MAX} chunks; name the documents one by one.")

        _open(read.profile, read.chunks)
        found: list[tuple[Mention, StoredChunk]] = []
        sealed: list[tuple[StoredChunk, bytes]] = []
        for _doc_id, group in groupby(read.chunks, key=lambda chunk: chunk.doc_id):
            chunks = list(group)
            mentions = _mentions(model, _document_text(chunks), labels, user_hash)
            mentions.sort(key=lambda mention: (mention.start, mention.end))
            found += zip(mentions, _homes(mentions, chunks), strict=True)
            for chunk, own in zip(chunks, _within(mentions, chunks), strict=True):
                require_time()
                sealed.append((chunk, _sealed(read.profile, chunk, own)))
        try:
            _store(user_hash, read.profile, sealed)
        except (_Changed, StaleKeys):
            continue
        return FoundEntities(_placed(found), model.backend, stored=True)
    raise Overloaded(retry_after_seconds=1)


def _mentions(model: EntityRecognizer, text: str, labels: Sequence[str], user_hash: str) -> list[Mention]:
    found = find_mentions(model, text, deadline=deadline_at(), user=user_hash)
    return [mention for mention in found if not labels or mention.label in labels]


def _open(profile: TenantProfile, chunks: list[StoredChunk]) -> None:
    with Opening(profile) as opening:
        for chunk in chunks:
            require_time()
            chunk.text = opening.text(chunk)
            chunk.metadata = opening.metadata(chunk)


def _document_text(chunks: list[StoredChunk]) -> str:
    try:
        return join_slices((chunk.start, chunk.text) for chunk in chunks)
    except ValueError:
        raise DecryptionFailed() from None


def _homes(mentions: list[Mention], chunks: list[StoredChunk]) -> Iterator[StoredChunk]:
    """For each mention the first chunk that holds all of it, or else its beginning.

    Chunks are in order and leave no gap, so each takes two binary searches: a call can have 100,000 mentions.
    """
    reached = list(accumulate((chunk.end for chunk in chunks), max))
    for mention in mentions:
        whole = chunks[bisect_left(reached, mention.end)]
        yield whole if whole.start <= mention.start else chunks[bisect_right(reached, mention.start)]


def _within(mentions: list[Mention], chunks: list[StoredChunk]) -> Iterator[list[Mention]]:
    """For each chunk the mentions, in order of their start, that its own slice holds whole, overlaps included."""
    starts = [mention.start for mention in mentions]
    for chunk in chunks:
        begun = mentions[bisect_left(starts, chunk.start) : bisect_left(starts, chunk.end)]
        yield [mention for mention in begun if mention.end <= chunk.end]


def _sealed(profile: TenantProfile, chunk: StoredChunk, own: list[Mention]) -> bytes:
    """The chunk's metadata with the entities of its own slice."""
    entities = [
        {
            "text": entity.text,
            "label": entity.label,
            "count": len(entity.mentions),
            "mentions": [{"start": mention.start, "end": mention.end} for mention in entity.mentions],
        }
        for entity in merge(own)
    ]
    # A row names one generation for all that is sealed in it, so its metadata stays with the text's.
    key = profile.data_key(chunk.generation)
    return seal_chunk_metadata(key, chunk.chunk_id, {**(chunk.metadata or {}), ENTITIES: entities})


def _store(user_hash: str, profile: TenantProfile, sealed: list[tuple[StoredChunk, bytes]]) -> None:
    """All chunks in one transaction. Raises _Changed or StaleKeys, with nothing written, when one is not as read."""
    with tenant_transaction(user_hash, write=True) as tx:
        state = profile.verify(tx)
        columns = [
            [chunk.chunk_id for chunk, _ in sealed], [chunk.meta_cipher for chunk, _ in sealed],
            [after for _, after in sealed], [chunk.generation for chunk, _ in sealed],
        ]  # fmt: skip
        written = tx.execute(_WRITE, [*columns, user_hash, profile.space]).fetchall()
        if len(written) != len(sealed):
            raise _Changed()
        for generation, seals in Counter(chunk.generation for chunk, _ in sealed).items():
            if generation == profile.generation:
                require_seal_budget(state)
                counted(count(tx, seals=seals))
            else:
                count_old_seals(tx, generation, seals)


def _placed(found: list[tuple[Mention, StoredChunk]]) -> list[FoundEntity]:
    """Merged over all documents, each mention with its chunk."""
    # By identity: mentions of two documents may be equal.
    homes = {id(mention): chunk.chunk_id for mention, chunk in found}
    return [
        FoundEntity(entity.text, entity.label, tuple((homes[id(m)], m.start, m.end) for m in entity.mentions))
        for entity in merge(mention for mention, _ in found)
    ]
