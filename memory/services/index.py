"""Remember documents: chunk, embed, seal and store them, replacing any earlier versions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from graphlib import CycleError, TopologicalSorter
from uuid import UUID

import numpy as np

from memory import metrics
from memory.admission.deadline import deadline_at
from memory.embedding.embedder import Embedder
from memory.embedding.spaces import chunking_of, default_space, embedder_of
from memory.errors import FieldError, InvalidInput, is_ours
from memory.indexing.chunker import chunk_texts
from memory.indexing.derived import derived_from
from memory.indexing.expired import refuse_expired
from memory.indexing.room import require_room_for
from memory.indexing.seal import DocumentDraft, SealedDocument, seal_document
from memory.indexing.slices import Slice
from memory.indexing.speakers import is_new_speaker
from memory.indexing.store import store_documents
from memory.limits import CHUNKS_PER_CALL_MAX
from memory.rls import TenantState, bound_tenant, tenant_transaction
from memory.sealing.keyring import existing_profile, forget_profiles, under_profile
from memory.sealing.profile import TenantProfile
from memory.services.idempotency import IdempotentCall
from memory.services.rate_limits import charge_chunks
from memory.services.stopwatch import Stopwatch


@dataclass(frozen=True)
class IndexedDocument:
    """What became of one document."""

    doc_id: str
    chunk_ids: list[UUID]
    replaced: bool


@dataclass(frozen=True)
class IndexedBatch:
    """What became of the documents of one call, in the order they came in. Times in milliseconds.

    `replayed`: it was said to an earlier call under the same key, and nothing was done now.
    """

    documents: list[IndexedDocument]
    took_ms: dict[str, float]
    replayed: bool = False

    def to_json(self) -> bytes:
        """What an idempotent call remembers of it."""
        said = [(each.doc_id, [chunk_id.hex for chunk_id in each.chunk_ids], each.replaced) for each in self.documents]
        return json.dumps([said, self.took_ms]).encode()

    @classmethod
    def from_json(cls, remembered: bytes) -> IndexedBatch:
        """The inverse of `to_json`, as said again."""
        documents, took_ms = json.loads(remembered)
        said = [IndexedDocument(doc_id, [UUID(hex) for hex in ids], replaced) for doc_id, ids, replaced in documents]
        return cls(said, took_ms, replayed=True)


@dataclass(frozen=True)
class _Embedded:
    """Each text's chunks, and a vector a chunk in the same order, float32[n, d], by the model of `space`."""

    space: int
    chunks: list[list[Slice]]
    vectors: np.ndarray


def index_documents(
    user_id: str, drafts: Sequence[DocumentDraft], call: IdempotentCall | None = None, *, field: str = "text"
) -> IndexedBatch:
    """Remember `drafts`, all or none, for the bound tenant, whose verified id is `user_id`; under a key, once.

    1. Say again what an earlier call under the same key was told; nothing else is done then. Refuse what would have
       expired before it began.
    2. Chunk the texts, up to the cap.
    3. See that the user has room for so many chunks, and charge them.
    4. Embed all chunks in one pass; no database connection is held.
    5. Seal under the user's keys, made now for a new user.
    6. Store: one transaction replaces each document as a whole, and keeps what is said under the key. An earlier call
       under it that has come first is said again.

    `drafts`: at least one, no `doc_id` twice. Raises TooManyChunks on `field`, InvalidInput for documents made from one
    another in a circle, or that expire before they began, QuotaExceeded, RateLimited, IdempotencyConflict, Overloaded,
    InvalidEmbedding, KeyUnavailable, SpaceMismatch, database errors; whatever it raises, nothing was stored.
    """
    watch = Stopwatch()
    try:
        batch = _index(user_id, drafts, call, field, watch)
    except Exception as exc:
        if is_ours(exc):
            metrics.index_latency_ms.observe(watch.total()["total"])
        raise
    metrics.index_latency_ms.observe(watch.total()["total"])
    return batch


def _index(
    user_id: str, drafts: Sequence[DocumentDraft], call: IdempotentCall | None, field: str, watch: Stopwatch
) -> IndexedBatch:
    user_hash = bound_tenant()
    order = _order_of_storing(drafts)
    texts = [draft.text for draft in drafts]

    state = None
    if call is not None:
        earlier, state = under_profile(user_hash, lambda profile: _recall(profile, call)) or (None, None)
        if earlier is not None:
            return earlier
        watch.skip()
    refuse_expired(
        (f"documents.{index}.expires_at" if field == "documents" else "expires_at", draft.created_at, draft.expires_at)
        for index, draft in enumerate(drafts)
    )

    space, embedder = active_embedder(user_hash)
    chunks = chunks_of(texts, space, embedder, field=field)
    watch.lap("chunk")

    count = sum(map(len, chunks))
    require_room_for(user_hash, state, [draft.doc_id for draft in drafts], count)
    charge_chunks(count)
    watch.skip()

    embedded = _embed(chunks, embedder, space, user_hash)
    watch.lap("embed")

    def store(profile: TenantProfile) -> IndexedBatch:
        nonlocal embedded
        if embedded.space != profile.space:
            # Moved to another space since.
            embedder = embedder_of(profile.space)
            chunks = chunks_of(texts, profile.space, embedder, field=field)
            embedded = _embed(chunks, embedder, profile.space, user_hash)
            watch.lap("embed")
        sealed = _seal(profile, drafts, embedded)
        watch.lap("seal")
        with tenant_transaction(user_hash, write=True) as tx:
            if call is not None and (earlier := call.recall(tx, profile)) is not None:
                return IndexedBatch.from_json(earlier)
            replaced = dict(zip(order, store_documents(tx, [sealed[index] for index in order]), strict=True))
            watch.lap("store")
            batch = _batch(sealed, replaced, watch)
            if call is not None:
                call.remember(tx, profile, batch.to_json())
        if is_new_speaker(profile, [document.speaker_id for document in sealed]):
            # The transaction has renewed it.
            forget_profiles(user_hash)
        return batch

    return under_profile(user_hash, store, user_id=user_id)


def index_document(user_id: str, draft: DocumentDraft) -> IndexedDocument:
    """Remember one document; see `index_documents`."""
    return index_documents(user_id, [draft]).documents[0]


def active_embedder(user_hash: str) -> tuple[int, Embedder]:
    """The space that a user is in, or would begin in, and this process's model of it. Raises SpaceMismatch."""
    profile = existing_profile(user_hash)
    space = default_space() if profile is None else profile.space
    return space, embedder_of(space)


def chunks_of(texts: Sequence[str], space: int, embedder: Embedder, *, field: str = "text") -> list[list[Slice]]:
    """Each text's chunks, as its `space` has them and the model of `embedder`, which is of that space, counts tokens.

    Raises TooManyChunks on `field` above CHUNKS_PER_CALL_MAX together; how many there are then, nobody counts.
    """
    return chunk_texts(
        texts, embedder.tokenizer, max_chunks=CHUNKS_PER_CALL_MAX, field=field, **asdict(chunking_of(space))
    )


def _recall(profile: TenantProfile, call: IdempotentCall) -> tuple[IndexedBatch | None, TenantState | None]:
    """What was said under the key, if anything was, and the tenant's state. Only to spare the work: step 6 decides."""
    with tenant_transaction(profile.user_hash) as tx:
        earlier = call.recall(tx, profile)
        return (None if earlier is None else IndexedBatch.from_json(earlier)), tx.state()


def _embed(chunks: list[list[Slice]], embedder: Embedder, space: int, user_hash: str) -> _Embedded:
    texts = [each.text for of_document in chunks for each in of_document]
    return _Embedded(space, chunks, embedder.embed_passages(texts, deadline=deadline_at(), user=user_hash))


def _seal(profile: TenantProfile, drafts: Sequence[DocumentDraft], embedded: _Embedded) -> list[SealedDocument]:
    sealed, row = [], 0
    for draft, chunks in zip(drafts, embedded.chunks, strict=True):
        sealed.append(seal_document(profile, draft, chunks, embedded.vectors[row : row + len(chunks)]))
        row += len(chunks)
    return sealed


def _order_of_storing(drafts: Sequence[DocumentDraft]) -> list[int]:
    """Positions in `drafts`, a document after those of the call it was made from: replacing these forgets it."""
    position = {draft.doc_id: index for index, draft in enumerate(drafts)}
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for index, draft in enumerate(drafts):
        sources = derived_from(draft.source, draft.metadata or {}, draft.doc_id)
        sorter.add(index, *{position[doc_id] for doc_id in sources if doc_id in position})
    try:
        return list(sorter.static_order())
    except CycleError:
        detail = "Some of the documents are made from one another in a circle."
        raise InvalidInput([FieldError("documents", "invalid", detail)], detail) from None


def _batch(sealed: list[SealedDocument], replaced: dict[int, bool], watch: Stopwatch) -> IndexedBatch:
    took_ms = watch.total()
    documents = [
        IndexedDocument(document.doc_id, [chunk.id for chunk in document.chunks], replaced[index])
        for index, document in enumerate(sealed)
    ]
    return IndexedBatch(documents, took_ms)
