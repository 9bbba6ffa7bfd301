"""Summarise part of one user's memory in cited sentences, and remember the summary."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from django.conf import settings
from pgvector import HalfVector

from memory.admission import concurrency
from memory.admission.deadline import deadline_at, paused
from memory.embedding.spaces import dimension_of, embedder_of
from memory.embedding.vectors import unit_vectors
from memory.errors import LanguageModelError, NotFound, Overloaded, QuotaExceeded, StaleKeys
from memory.indexing.derived import DERIVED_FROM, DERIVED_MAX_BYTES, DERIVED_MAX_IDS, SUMMARY_SOURCE, listed_bytes
from memory.indexing.seal import DocumentDraft, seal_document
from memory.indexing.store import store_documents
from memory.language.abstract import rewrite
from memory.language.extract import central_chunks, central_sentences, cited_sentences
from memory.language.llm import LanguageModel, language_model
from memory.limits import CHUNKS_PER_CALL_MAX, SUMMARY_SENTENCES_DEFAULT, TOP_K_MAX
from memory.retrieval.chunks import ChunkScope, ReadChunks, StoredChunk, read_chunks
from memory.retrieval.open import open_texts
from memory.rls import bound_tenant, tenant_transaction
from memory.sealing.profile import TenantProfile
from memory.services.index import chunks_of
from memory.services.query import MemoryQuery, query_memory
from memory.services.stopwatch import Stopwatch
from memory.services.summary import Summary, SummaryScope

QUERY_PASSAGES = 20
SCOPE_MAX_CHARS = 1_000

_WORD = re.compile(r"[^\W_]")
_VERSIONS = "SELECT doc_id, content_mac FROM memory_documents WHERE user_hash = %s AND doc_id = ANY(%s)"


class _Changed(Exception):
    """A covered document is not the one that was read."""


def summarize_memory(
    user_id: str, scope: SummaryScope, *, max_sentences: int = SUMMARY_SENTENCES_DEFAULT, store: bool = True
) -> Summary:
    """Summarise `scope` of the memory of the bound tenant, whose verified id is `user_id`; never summaries.

    1. Read the chunks, the newest 200 at most; for a query, the passages it finds.
    2. Open them, and keep the most central ones of those that hold a word, by their stored vectors.
    3. Split them into sentences and embed these; no database connection is held.
    4. Choose central sentences that do not repeat each other, in document order.
    5. Have the language model rewrite them, where there is one.
    6. Store the summary, if it says anything and every document that it covers is still as it was read; if one is
       not, all once more. Where the user's quota has no room for it, it is answered and not stored.

    Raises NotFound for documents or a thread that are not there, Overloaded, ModelUnavailable, KeyUnavailable,
    DecryptionFailed, SpaceMismatch, database errors; whatever it raises, nothing was stored.
    """
    watch = Stopwatch()
    for _ in range(2):
        read = _within_metadata(_read(scope))
        watch.lap("read")
        profile = read.profile
        if profile is None or not read.chunks:
            if scope.must_exist:
                raise NotFound()
            return Summary("", [], 0, 0, "extractive", None, _degraded(read), watch.total())
        summary = _summarize(scope, profile, read, max_sentences, watch)
        if not store or not summary.text:
            return _timed(summary, None, watch)
        try:
            doc_id = _store(user_id, profile, scope, read, summary)
        except (_Changed, StaleKeys):
            continue
        except QuotaExceeded:
            watch.lap("store")
            return _timed(replace(summary, degraded=[*summary.degraded, "quota"]), None, watch)
        watch.lap("store")
        return _timed(summary, doc_id, watch)
    raise Overloaded(retry_after_seconds=1)


def _read(scope: SummaryScope) -> ReadChunks:
    value = scope.value
    if not isinstance(value, str):
        read = read_chunks(ChunkScope(doc_ids=tuple(value)), limit=CHUNKS_PER_CALL_MAX)
        if read.missing:
            raise NotFound()
        return read
    if scope.kind == "query":
        # More than are needed: summaries are among them and stay out.
        answer = query_memory(MemoryQuery(value, top_k=TOP_K_MAX, candidates=TOP_K_MAX, rerank=False))
        ranks = {found.chunk_id: rank for rank, found in enumerate(answer.results)}
        read = read_chunks(ChunkScope(chunk_ids=tuple(ranks)), limit=TOP_K_MAX)
        best = {chunk.chunk_id for chunk in sorted(read.chunks, key=lambda c: ranks[c.chunk_id])[:QUERY_PASSAGES]}
        return ReadChunks(read.profile, [c for c in read.chunks if c.chunk_id in best], quarantined=read.quarantined)
    chosen = ChunkScope(thread_id=value) if scope.kind == "thread_id" else ChunkScope(source=value)
    return read_chunks(chosen, limit=CHUNKS_PER_CALL_MAX)


def _within_metadata(read: ReadChunks) -> ReadChunks:
    """Without the oldest documents whose ids a summary's metadata has no room for, or that are too many to name."""
    room = DERIVED_MAX_BYTES
    kept: dict[str, bool] = {}
    for chunk in read.chunks:
        if chunk.doc_id not in kept:
            room -= listed_bytes(chunk.doc_id)
            kept[chunk.doc_id] = room >= 0 and len(kept) < DERIVED_MAX_IDS
    return ReadChunks(read.profile, [c for c in read.chunks if kept[c.doc_id]], read.missing, read.quarantined)


def _summarize(
    scope: SummaryScope, profile: TenantProfile, read: ReadChunks, max_sentences: int, watch: Stopwatch
) -> Summary:
    open_texts(profile, read.chunks)
    watch.lap("open")
    # A chunk can be blank, or a line of dashes: alike among themselves, such would pass for central.
    chunks = [chunk for chunk in read.chunks if _WORD.search(chunk.text)] or read.chunks
    chunks = [chunks[index] for index in central_chunks(_stored_units(chunks, profile.space))]
    # Oldest document first: that is how they were written.
    chunks.sort(key=lambda chunk: (chunk.created_at, chunk.doc_id, chunk.chunk_index))
    watch.lap("rank")
    candidates = cited_sentences(chunks, deadline=deadline_at(), user=bound_tenant())
    watch.lap("split")

    embedder, user, deadline = embedder_of(profile.space), bound_tenant(), deadline_at()
    units = embedder.embed_passages([sentence.text for sentence in candidates], deadline=deadline, user=user)
    asked = scope.value_of("query")
    question = None if asked is None else embedder.embed_query(asked, deadline=deadline, user=user)
    watch.lap("embed")
    sentences = [candidates[index] for index in central_sentences(units, max_sentences, question)]
    watch.lap("rank")

    text, backend, degraded = " ".join(sentence.text for sentence in sentences), "extractive", _degraded(read)
    if sentences and (model := language_model()):
        try:
            text = _rewritten(model, [sentence.text for sentence in sentences], max_sentences)
            backend = f"llm:{settings.MEMORY_LLM_MODEL}"
        except LanguageModelError as error:
            degraded.append(f"llm_{error.reason}")
        watch.lap("llm")
    return Summary(text, sentences, len(_versions(read.chunks)), len(read.chunks), backend, None, degraded)


def _rewritten(model: LanguageModel, sentences: list[str], count: int) -> str:
    """`rewrite`, whose time is not the request's. Raises LanguageModelError, `busy` where too many wait already."""
    try:
        slot = concurrency.language_models.take(bound_tenant(), patience_seconds=0)
    except Overloaded:
        raise LanguageModelError("busy") from None
    try:
        with paused():
            return rewrite(model, sentences, count=count, user=bound_tenant())
    finally:
        slot.release()


def _stored_units(chunks: Sequence[StoredChunk], space: int) -> np.ndarray:
    """float32[n, d] of length 1: the searchable vectors, whose cosines are those of the true ones."""
    rows = [HalfVector.from_binary(chunk.embedding).to_numpy() for chunk in chunks]
    return unit_vectors(rows, rows=len(rows), dimension=dimension_of(space))


def _store(user_id: str, profile: TenantProfile, scope: SummaryScope, read: ReadChunks, summary: Summary) -> str:
    """The id it is stored under. Raises _Changed, StaleKeys, QuotaExceeded.

    The transaction's first statement locks the tenant's row, so no document is replaced or deleted between the look
    at the versions and the commit.
    """
    user_hash, versions = profile.user_hash, _versions(read.chunks)
    draft = DocumentDraft(
        doc_id=scope.doc_id(user_id),
        source=SUMMARY_SOURCE,
        text=summary.text,
        thread_id=scope.value_of("thread_id"),
        metadata={DERIVED_FROM: list(versions), "summary": _provenance(scope, summary)},
        # It says what they said: with the first of them it goes.
        expires_at=min((chunk.expires_at for chunk in read.chunks if chunk.expires_at is not None), default=None),
    )
    embedder = embedder_of(profile.space)
    [chunks] = chunks_of([draft.text], profile.space, embedder)
    embeddings = embedder.embed_passages([each.text for each in chunks], deadline=deadline_at(), user=user_hash)
    document = seal_document(profile, draft, chunks, embeddings)
    with tenant_transaction(user_hash, write=True) as tx:
        stored = tx.execute(_VERSIONS, [user_hash, list(versions)]).fetchall()
        if {doc_id: bytes(mac) for doc_id, mac in stored} != versions:
            raise _Changed()
        store_documents(tx, [document])
    return draft.doc_id


def _versions(chunks: Sequence[StoredChunk]) -> dict[str, bytes]:
    return {chunk.doc_id: bytes(chunk.document_mac) for chunk in chunks}


def _provenance(scope: SummaryScope, summary: Summary) -> dict:
    """What was summarised and by whom. The ids of a doc_ids scope stand beside it; quotes, in the documents."""
    said = scope.kind if isinstance(scope.value, tuple) else {scope.kind: scope.value[:SCOPE_MAX_CHARS]}
    return {
        "scope": said,
        "backend": summary.backend,
        "sentences": [
            {"doc_id": cited.doc_id, "chunk_index": cited.chunk_index, "start": cited.start, "end": cited.end}
            for cited in (sentence.citation for sentence in summary.sentences)
        ],
    }


def _degraded(read: ReadChunks) -> list[str]:
    return ["quarantined"] if read.quarantined else []


def _timed(summary: Summary, doc_id: str | None, watch: Stopwatch) -> Summary:
    return replace(summary, doc_id=doc_id, took_ms=watch.total())
