"""Remember documents: chunk, embed, seal and store them, replacing any earlier versions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from graphlib import CycleError, TopologicalSorter
from uuid import UUID

from django.conf import settings

from memory import metrics
from memory.admission.deadline import deadline_at
from memory.embedding.process import get_embedder
from memory.embedding.spaces import active_space
from memory.errors import FieldError, InvalidInput, StaleKeys
from memory.indexing.chunker import chunk_texts
from memory.indexing.derived import derived_from
from memory.indexing.room import require_room_for
from memory.indexing.seal import DocumentDraft, SealedDocument, seal_document
from memory.indexing.slices import Slice
from memory.indexing.store import store_documents
from memory.limits import CHUNK_MAX_CHARS, CHUNKS_PER_CALL_MAX
from memory.rls import TenantTransaction, bound_tenant, tenant_transaction
from memory.sealing.keyring import existing_keys, existing_or_new_keys, forget_keys
from memory.services.idempotency import IdempotentCall, RenderedAnswer
from memory.services.stopwatch import Stopwatch


@dataclass(frozen=True)
class IndexedDocument:
    """What became of one document. `took_ms` is the whole call's, in milliseconds."""

    doc_id: str
    chunk_ids: list[UUID]
    replaced: bool
    took_ms: dict[str, float]


@dataclass(frozen=True)
class IndexedBatch:
    """What became of the documents of one call, in the order they came in. Times in milliseconds."""

    documents: list[IndexedDocument]
    took_ms: dict[str, float]


@dataclass(frozen=True)
class ChunkedTexts:
    """Each text's chunks and how long finding them took, in milliseconds."""

    chunks: list[list[Slice]]
    took_ms: float

    @property
    def chunk_count(self) -> int:
        """How many chunks the texts make together."""
        return sum(map(len, self.chunks))


def count_chunks(texts: Sequence[str], *, field: str = "text") -> ChunkedTexts:
    """The chunks of `texts`, for the serializer's cap; the service takes them as they are.

    Raises TooManyChunks on `field` above CHUNKS_PER_CALL_MAX together; how many there are then, nobody counts.
    """
    started = time.perf_counter()
    embedder = get_embedder()
    chunks = chunk_texts(
        texts,
        embedder.tokenizer,
        max_tokens=embedder.max_tokens,
        overlap_tokens=settings.MEMORY_CHUNK_OVERLAP,
        max_chars=CHUNK_MAX_CHARS,
        max_chunks=CHUNKS_PER_CALL_MAX,
        field=field,
    )
    return ChunkedTexts(chunks, (time.perf_counter() - started) * 1000)


def look_first(
    drafts: Sequence[DocumentDraft], chunked: ChunkedTexts, call: IdempotentCall | None = None
) -> RenderedAnswer | None:
    """What can be said before the work: the answer that an earlier call under the same key got, else None.

    Raises QuotaExceeded where the bound tenant has no room for `drafts`, IdempotencyConflict, KeyUnavailable, database
    errors. Only to spare the work: the look that counts is taken by the transaction that writes.
    """
    keys = existing_keys(bound_tenant()) if call else None
    with suppress(StaleKeys):
        # Its connection stays for the charge of these chunks, which comes next.
        with tenant_transaction(keeps_connection=True) as tx:
            if call is not None and keys is not None and (earlier := call.recall(tx, keys)) is not None:
                return earlier
            tx.end()
            state = tx.state()
        require_room_for(state, [draft.doc_id for draft in drafts], chunked.chunk_count)
    return None


def index_document(user_id: str, draft: DocumentDraft) -> IndexedDocument:
    """Remember one document; see `index_documents`."""
    return index_documents(user_id, [draft]).documents[0]


def index_documents(user_id: str, drafts: Sequence[DocumentDraft], chunked: ChunkedTexts | None = None) -> IndexedBatch:
    """Remember `drafts`, all or none, for the bound tenant, whose verified id is `user_id`.

    1. Chunk the texts, unless the caller has counted their chunks already.
    2. Embed all chunks in one pass; no database connection is held.
    3. Seal under the user's key, made now for a new user.
    4. Store: one transaction replaces each document as a whole.

    `drafts`: at least one, no `doc_id` twice. Raises TooManyChunks, InvalidInput for documents made from one
    another in a circle, QuotaExceeded, Overloaded, InvalidEmbedding, KeyUnavailable, SpaceMismatch, database
    errors; whatever it raises, nothing was stored.
    """
    watch = Stopwatch()
    documents = _carry_out(user_id, drafts, chunked, watch, lambda tx, keys, store: store())
    watch.lap("store")
    return _batch(documents, watch)


def index_once(
    user_id: str, drafts: Sequence[DocumentDraft], chunked: ChunkedTexts | None, call: IdempotentCall
) -> RenderedAnswer:
    """Remember `drafts` unless a call under the same key has: the answer to this call, or the one to that.

    As `index_documents`, which see; `look_first` spares the work of most repetitions. The answer is rendered and
    kept inside the transaction, so its times end before the commit. Raises IdempotencyConflict when the key came with
    another request.
    """
    watch = Stopwatch()

    def store_and_remember(tx, keys, store) -> RenderedAnswer:
        earlier = call.recall(tx, keys)
        if earlier is not None:
            return earlier
        documents = store()
        watch.lap("store")
        return call.remember(tx, keys, _batch(documents, watch))

    return _carry_out(user_id, drafts, chunked, watch, store_and_remember)


def _carry_out(user_id, drafts, chunked, watch, in_transaction):
    """Steps 1 to 4; in the transaction of the last, `in_transaction(tx, keys, store)` decides whether to store."""
    user_hash = bound_tenant()
    order = _order_of_storing(drafts)

    if chunked is None:
        chunked = count_chunks([draft.text for draft in drafts])
        watch.lap("chunk")
    else:
        watch.add("chunk", chunked.took_ms)

    embedder = get_embedder()
    texts = [chunk.text for chunks in chunked.chunks for chunk in chunks]
    embeddings = embedder.embed_passages(texts, deadline=deadline_at(), user=user_hash)
    watch.lap("embed")

    space = active_space(embedder)
    for attempt in range(2):
        keys = existing_or_new_keys(user_hash, user_id)
        sealed, row = [], 0
        for draft, chunks in zip(drafts, chunked.chunks, strict=True):
            sealed.append(seal_document(keys, space, draft, chunks, embeddings[row : row + len(chunks)]))
            row += len(chunks)
        watch.lap("seal")
        try:
            with tenant_transaction(user_hash, write=True) as tx:
                return in_transaction(tx, keys, partial(_store, tx, sealed, order))
        except StaleKeys:
            # Rotated or erased elsewhere since this process cached it: seal again under the live key.
            forget_keys(user_hash)
            if attempt:
                raise


def _store(tx: TenantTransaction, sealed: list[SealedDocument], order: list[int]) -> list[tuple[SealedDocument, bool]]:
    """Store in `order`; each document and whether it replaced one, in the order they came in."""
    replaced = dict(zip(order, store_documents(tx, [sealed[index] for index in order]), strict=True))
    return [(document, replaced[index]) for index, document in enumerate(sealed)]


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


def _batch(documents: list[tuple[SealedDocument, bool]], watch: Stopwatch) -> IndexedBatch:
    took_ms = watch.total()
    metrics.index_latency_ms.observe(took_ms["total"])
    return IndexedBatch(
        [
            IndexedDocument(document.doc_id, [chunk.id for chunk in document.chunks], replaced, took_ms)
            for document, replaced in documents
        ],
        took_ms,
    )
