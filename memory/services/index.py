"""Remember a document: chunk, embed, seal and store it, replacing any earlier version."""

from __future__ import annotations

import time
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings

from memory import metrics
from memory.conf import CHUNK_MAX_CHARS, CHUNKS_PER_CALL_MAX
from memory.errors import StaleKeys
from memory.indexing.chunker import Chunk, chunk_text
from memory.indexing.write import DocumentDraft, seal_document, store_document
from memory.keyring import existing_or_new_keys, forget_keys
from memory.retrieval.models import get_embedder
from memory.rls import bound_tenant, tenant_transaction
from memory.spaces import active_space
from memory.stopwatch import Stopwatch


@dataclass(frozen=True)
class IndexedDocument:
    """What became of one document. Times in milliseconds."""

    doc_id: str
    chunk_ids: list[UUID]
    replaced: bool
    took_ms: dict[str, float]


@dataclass(frozen=True)
class ChunkedText:
    """A text's chunks and how long finding them took, in milliseconds."""

    chunks: list[Chunk]
    took_ms: float


def count_chunks(text: str) -> ChunkedText:
    """The chunks of `text`, for the serializer's cap; the service takes them as they are.

    Raises TooManyChunks, which says how many there are, above CHUNKS_PER_CALL_MAX.
    """
    started = time.perf_counter()
    embedder = get_embedder()
    chunks = chunk_text(
        text,
        embedder.tokenizer,
        max_tokens=embedder.max_tokens,
        overlap_tokens=settings.MEMORY_CHUNK_OVERLAP,
        max_chars=CHUNK_MAX_CHARS,
        max_chunks=CHUNKS_PER_CALL_MAX,
    )
    return ChunkedText(chunks, (time.perf_counter() - started) * 1000)


def index_document(user_id: str, draft: DocumentDraft, chunked: ChunkedText | None = None) -> IndexedDocument:
    """Remember `draft` for the bound tenant, whose verified id is `user_id`.

    1. Chunk the text, unless the caller has counted its chunks already.
    2. Embed the chunks; no database connection is held.
    3. Seal under the user's key, made now for a new user.
    4. Store: one transaction replaces the document as a whole.

    Raises TooManyChunks, Overloaded, InvalidEmbedding, KeyUnavailable, SpaceMismatch, database errors;
    whatever it raises, nothing of the document was stored.
    """
    watch = Stopwatch()
    user_hash = bound_tenant()

    if chunked is None:
        chunked = count_chunks(draft.text)
        watch.lap("chunk")
    else:
        watch.add("chunk", chunked.took_ms)
    chunks = chunked.chunks

    embedder = get_embedder()
    deadline = time.monotonic() + settings.MEMORY_EMBED_INDEX_TIMEOUT_SECONDS
    embeddings = embedder.embed_passages([chunk.text for chunk in chunks], deadline=deadline)
    watch.lap("embed")

    space = active_space(embedder)
    for attempt in range(2):
        keys = existing_or_new_keys(user_hash, user_id)
        document = seal_document(keys, space, draft, chunks, embeddings)
        watch.lap("seal")
        try:
            with tenant_transaction(user_hash, write=True) as tx:
                replaced = store_document(tx, document)
            break
        except StaleKeys:
            # Rotated or erased elsewhere since this process cached it: seal again under the live key.
            forget_keys(user_hash)
            if attempt:
                raise
    watch.lap("store")

    took_ms = watch.total()
    metrics.index_latency_ms.observe(took_ms["total"])
    return IndexedDocument(draft.doc_id, [chunk.id for chunk in document.chunks], replaced, took_ms)
