"""Vectors of one's own, stored by code of the same process: a document's text and its embeddings in one call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import numpy as np

from memory.embedding.spaces import default_space
from memory.errors import InvalidInput, TooManyChunks
from memory.indexing.seal import DocumentDraft, seal_document
from memory.indexing.slices import Slice, join_slices
from memory.indexing.store import store_documents
from memory.rls import joined_transaction
from memory.sealing.keyring import create_tenant
from memory.sealing.profile import read_profile
from memory.security import hmac_user

# Seven parameters a row, and PostgreSQL's protocol counts a statement's in 16 bits.
PASSAGES_MAX = 9_000


def index_memory_batch(
    conn, user_id: str, doc_id: str, source: str, passages: Sequence[Slice], embeddings, metadata: dict | None = None,
    *, thread_id: str | None = None, created_at: datetime | None = None,
) -> list[UUID]:  # fmt: skip
    """Seal and store `passages` as the whole of document `doc_id`; their chunk ids, in order.

    `passages` may overlap and leave no gap; `embeddings`: float[n, d] of the
    model of the user's active space. `conn` is the
    Django connection: inside `tenant_transaction(write=True)` of the same user this joins that transaction, else it
    opens one. Replaces an earlier version of the document.

    Raises CrossTenantAttempt when `conn` is in another user's transaction, InvalidEmbedding, InvalidUserId,
    InvalidInput without passages, with a gap between them, or where `metadata` names too many documents that this one
    was made from, TooManyChunks, QuotaExceeded.
    """
    if not passages:
        raise InvalidInput(detail="A document needs at least one passage.")
    if len(passages) > PASSAGES_MAX:
        raise TooManyChunks(detail=f"{len(passages)} passages; at most {PASSAGES_MAX} in one document.")
    user_hash = hmac_user(user_id)
    space = default_space()
    with joined_transaction(conn, user_hash) as tx:
        profile = read_profile(tx) or create_tenant(tx, user_id, space)
        try:
            text = join_slices((passage.start, passage.text) for passage in passages)
        except ValueError:
            raise InvalidInput(detail="The passages leave out part of the document.") from None
        draft = DocumentDraft(doc_id, source, text, thread_id, metadata, created_at)
        document = seal_document(profile, draft, passages, embeddings)
        store_documents(tx, [document])
    return [chunk.id for chunk in document.chunks]


def index_memory_chunk(
    conn, user_id: str, doc_id: str, source: str, text: str, embedding, metadata: dict | None = None
) -> UUID:
    """Seal and store one text as the whole of document `doc_id`, replacing what it held; its chunk id.

    A document of one chunk: calls in a loop need a `doc_id` each. As `index_memory_batch` with one
    passage; `embedding`: float[d].
    """
    passage = Slice(text, 0, len(text))
    return index_memory_batch(conn, user_id, doc_id, source, [passage], np.asarray(embedding)[None, :], metadata)[0]
