"""What an erasure deletes, table by table, and how much of it at once."""

from __future__ import annotations

# One statement deletes so many: far below statement_timeout on a slow disk, and other requests get in between.
BATCH_ROWS = 1_000

# Every table of a user's rows with what orders them beside the user, chunks first: they are the most. Not the
# rate buckets, since erasing would refill them, and not the ledger.
ERASED_TABLES = {
    "memory_chunks": ("id",),
    "memory_lexical_blocks": ("space", "block", "segment"),
    "memory_lexical_segments": ("space", "segment"),
    "memory_lexical_chunks": ("space", "chunk_id"),
    "memory_document_sources": ("doc_id", "source_doc_id"),
    "memory_documents": ("doc_id",),
    "memory_idempotency": ("key_mac",),
    "memory_moved_documents": ("doc_id",),
    "memory_moves": ("user_hash",),
}
# What erases him: without these nothing of the rest opens, or can be searched.
KEY_TABLES = ("memory_data_keys", "memory_search_keys")
