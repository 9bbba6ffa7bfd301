"""Sealed chunks as rows of memory_chunks: one INSERT for whoever writes a document, new or copied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from memory.indexing.seal import SealedChunk
from memory.rls import TenantTransaction
from memory.sealing.columns import Origin

# Seven parameters a row, and PostgreSQL's protocol counts a statement's in 16 bits.
_INSERT_ROWS = 1_000

_INSERT_CHUNKS = """
INSERT INTO memory_chunks
    (user_hash, space, doc_id, source, thread_id, sequence, generation, created_at, expires_at, speaker,
     id, chunk_index, char_start, char_end, embedding, text_cipher, meta_cipher, emb_cipher)
VALUES """
_SHARED_VALUES = (
    "%(user_hash)s, %(space)s, %(doc_id)s, %(source)s, %(thread_id)s, %(sequence)s, %(generation)s, %(created_at)s,"
    " %(expires_at)s, %(speaker)s"
)


class ChunkedDocument(Protocol):
    """What a document's chunks have in common, and the chunks in order. `speaker_id`: the blind id of who said it."""

    @property
    def doc_id(self) -> str: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def generation(self) -> int: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def speaker_id(self) -> int | None: ...
    @property
    def chunks(self) -> Sequence[SealedChunk]: ...


def insert_chunks(tx: TenantTransaction, space: int, document: ChunkedDocument) -> None:
    """Queue the document's chunks as new rows of `space`; waits for nothing. Their terms stand apart."""
    for first in range(0, len(document.chunks), _INSERT_ROWS):
        tx.execute(*_statement(tx.user_hash, space, document, first))


def _statement(user_hash: str, space: int, document: ChunkedDocument, first: int) -> tuple[str, dict]:
    origin = document.origin
    params = {
        "user_hash": user_hash, "space": space, "doc_id": document.doc_id, "source": origin.source,
        "thread_id": origin.thread_id, "sequence": origin.sequence, "generation": document.generation,
        "created_at": origin.created_at, "expires_at": document.expires_at, "speaker": document.speaker_id,
    }  # fmt: skip
    rows = []
    for at, chunk in enumerate(document.chunks[first : first + _INSERT_ROWS]):
        params |= {
            f"id{at}": chunk.id, f"start{at}": chunk.start, f"end{at}": chunk.end, f"embedding{at}": chunk.embedding,
            f"text{at}": chunk.text_cipher, f"meta{at}": chunk.meta_cipher, f"emb{at}": chunk.emb_cipher,
        }  # fmt: skip
        rows.append(
            f"({_SHARED_VALUES}, %(id{at})s, {first + at}, %(start{at})s, %(end{at})s, %(embedding{at})s::halfvec,"
            f" %(text{at})s, %(meta{at})s, %(emb{at})s)"
        )
    return _INSERT_CHUNKS + ", ".join(rows), params
