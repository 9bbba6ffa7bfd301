"""What is sealed of the rows that go on, brought in the snapshot in which they were found."""

from __future__ import annotations

from collections.abc import Sequence

from memory.isolation.connection import array
from memory.retrieval.candidate import Candidate
from memory.rls import TenantTransaction, refuse_cross_tenant

# OFFSET 0: each row is looked up by its id, as in the search (`search.py`).
SEALED = """
SELECT c.user_hash, c.id, c.text_cipher, c.meta_cipher, d.meta_cipher, d.content_mac, d.generation,
       d.speaker_cipher
FROM unnest(%(ids)s::uuid[]) AS asked (id) CROSS JOIN LATERAL (
    SELECT user_hash, id, doc_id, text_cipher, meta_cipher FROM memory_chunks c
    WHERE c.user_hash = %(user_hash)s AND c.id = asked.id AND c.space = %(space)s::smallint OFFSET 0) c
LEFT JOIN LATERAL (
    SELECT meta_cipher, content_mac, generation, speaker_cipher FROM memory_documents d
    WHERE d.user_hash = %(user_hash)s AND d.doc_id = c.doc_id OFFSET 0) d ON true"""


class SealedRows:
    """The sealed columns of `candidates`, all of a space, queued in the transaction that found them.

    `bring()` waits for the server.
    """

    def __init__(self, tx: TenantTransaction, space: int, candidates: Sequence[Candidate]):
        self._user_hash = tx.user_hash
        self._candidates = {candidate.chunk_id: candidate for candidate in candidates}
        params = {"user_hash": tx.user_hash, "space": space, "ids": array(self._candidates)}
        self._found = tx.read_partition(SEALED, params, keeps_plan=True, binary=True)

    def bring(self) -> None:
        """Set them. Raises CrossTenantAttempt if the server ever returned another tenant's row."""
        for user_hash, chunk_id, *sealed in self._found.fetchall():
            if user_hash != self._user_hash:
                refuse_cross_tenant()
            candidate = self._candidates[chunk_id]
            candidate.text_cipher, candidate.meta_cipher = sealed[0], sealed[1]
            candidate.document_meta_cipher, candidate.document_mac, candidate.document_generation = sealed[2:5]
            candidate.speaker_cipher = sealed[5]
