"""What POST /memory/erase answers."""

from __future__ import annotations

from dataclasses import asdict

from memory.api.fields import rfc3339
from memory.erasure.erase import Erasure
from memory.erasure.receipts import signed_receipt


def erasure_receipt(user_id: str, erasure: Erasure) -> dict:
    """The user's receipt, signed over exactly these members."""
    receipt = signed_receipt(
        user_id,
        erased_documents=erasure.erased_documents,
        erased_chunks=erasure.erased_chunks,
        key_destroyed=erasure.key_destroyed,
        unrecoverable_after=rfc3339(erasure.unrecoverable_after),
        at=rfc3339(erasure.at),
    )
    return asdict(receipt)
