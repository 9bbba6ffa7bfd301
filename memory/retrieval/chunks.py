"""The chunks of a document, a thread or a source, read whole: for what is made of them, not for search."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory.embedding.spaces import dimension_of
from memory.indexing.derived import IS_DERIVED
from memory.indexing.expired import unexpired
from memory.retrieval.chunk_row import ChunkRow
from memory.rls import TenantTransaction, bound_tenant, refuse_cross_tenant, tenant_transaction
from memory.sealing.keyring import under_profile
from memory.sealing.profile import TenantProfile
from memory.sealing.quarantine import ANY_QUARANTINED, quarantine_misfits

# Of halfvec_send: the dimension and a reserved number, 2 bytes each.
HALFVEC_HEADER_BYTES = 4


@dataclass(slots=True)
class StoredChunk(ChunkRow):
    """A row of memory_chunks with what its document says, its sealed blobs unopened.

    `embedding` is the searchable vector as pgvector sends it: rotated, so good for cosines among one user's
    vectors and nothing else. `document_mac` names the version of the document that it was read with.
    """

    text_cipher: bytes
    meta_cipher: bytes
    embedding: bytes
    document_mac: bytes
    document_chars: int
    expires_at: datetime | None
    text: str = ""
    metadata: dict | None = None


@dataclass(frozen=True)
class ChunkScope:
    """Which chunks: these, of these documents, of this thread, from this source; all that are given, together.

    `summaries`: those of documents made from others too. `quarantined`: those that are quarantined too.
    """

    chunk_ids: tuple[UUID, ...] | None = None
    doc_ids: tuple[str, ...] = ()
    thread_id: str | None = None
    source: str | None = None
    summaries: bool = False
    quarantined: bool = False


@dataclass(frozen=True)
class ReadChunks:
    """Newest document first, a document's chunks in order. `profile` opens them; None for a user without one.

    `missing` are ids of the scope that no document has, or one whose time is up; `quarantined`: some of the user's rows
    are quarantined.
    """

    profile: TenantProfile | None
    chunks: list[StoredChunk]
    missing: frozenset[str] = frozenset()
    quarantined: bool = False


# OFFSET 0: each chunk's document is looked up, and counts as one. Else the planner takes the join for many rows,
# expects to have enough of them soon when it goes through the user's chunks by time, and goes through all of them.
_CHUNKS = """
SELECT c.user_hash, c.id, c.doc_id, c.chunk_index, c.source, c.thread_id, c.char_start, c.char_end, c.created_at,
       c.sequence, c.generation, c.text_cipher, c.meta_cipher, halfvec_send(c.embedding), d.content_mac, d.char_count,
       d.expires_at
FROM memory_chunks c CROSS JOIN LATERAL (
    SELECT d.content_mac, d.char_count, d.expires_at FROM memory_documents d
    WHERE d.user_hash = %(user_hash)s AND d.doc_id = c.doc_id AND {of_documents} OFFSET 0) d
WHERE c.user_hash = %(user_hash)s AND c.space = %(space)s::smallint{conditions}
ORDER BY c.created_at DESC, c.doc_id, c.chunk_index
LIMIT %(limit)s"""
_KNOWN = f"SELECT doc_id FROM memory_documents WHERE user_hash = %s AND doc_id = ANY(%s) AND {unexpired()}"


def read_chunks(scope: ChunkScope, *, limit: int) -> ReadChunks:
    """At most `limit` chunks of `scope` of the bound tenant, in one short transaction.

    Those whose vector has not the space's dimension are quarantined and left out, unless `scope` wants such too.
    Raises KeyUnavailable, StaleKeys, CrossTenantAttempt.
    """

    def read(profile: TenantProfile) -> ReadChunks:
        with tenant_transaction(user_hash) as tx:
            found = _queue(tx, scope, profile.space, limit)
            known = tx.execute(_KNOWN, [user_hash, list(scope.doc_ids)])
            quarantined = tx.execute(ANY_QUARANTINED, [user_hash])
            tx.end()
            profile.verify(tx)
            rows = found.fetchall()
            if any(row[0] != user_hash for row in rows):
                refuse_cross_tenant()
            missing = frozenset(scope.doc_ids) - {doc_id for (doc_id,) in known.fetchall()}
            return ReadChunks(profile, [StoredChunk(*row[1:]) for row in rows], missing, quarantined.fetchone()[0])

    user_hash = bound_tenant()

    def read_what_fits(profile: TenantProfile) -> ReadChunks:
        found = read(profile)
        blob_bytes = HALFVEC_HEADER_BYTES + 2 * dimension_of(profile.space)
        if scope.quarantined or all(len(chunk.embedding) == blob_bytes for chunk in found.chunks):
            return found
        quarantine_misfits(user_hash, profile.space)
        return read(profile)

    return under_profile(user_hash, read_what_fits) or ReadChunks(None, [], frozenset(scope.doc_ids))


def _queue(tx: TenantTransaction, scope: ChunkScope, space: int, limit: int):
    params = {"user_hash": tx.user_hash, "space": space, "limit": limit}
    conditions = []
    if scope.chunk_ids is not None:
        conditions.append("c.id = ANY(%(chunk_ids)s::uuid[])")
        params["chunk_ids"] = list(scope.chunk_ids)
    if scope.doc_ids:
        conditions.append("c.doc_id = ANY(%(doc_ids)s)")
        params["doc_ids"] = list(scope.doc_ids)
    if scope.thread_id is not None:
        conditions.append("c.thread_id = %(thread_id)s")
        params["thread_id"] = scope.thread_id
    if scope.source is not None:
        conditions.append("c.source = %(source)s")
        params["source"] = scope.source
    of_documents = unexpired("d") if scope.summaries else f"{unexpired('d')} AND NOT {IS_DERIVED}"
    if not scope.quarantined:
        conditions.append("c.quarantined_at IS NULL")
    narrowed = "".join(f" AND {condition}" for condition in conditions)
    return tx.execute(_CHUNKS.format(of_documents=of_documents, conditions=narrowed), params)
