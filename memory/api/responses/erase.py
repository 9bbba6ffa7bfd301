"""What POST /memory/erase answers."""

from __future__ import annotations

from typing import Any

from memory.api.fields import rfc3339
from memory.api.patterns import BASE64URL
from memory.api.responses.body import About, Member
from memory.api.shapes import boolean, integer, moment, string
from memory.erasure.erase import Erasure
from memory.erasure.receipts import Receipt, signed_receipt

RECEIPT = About(Receipt).body(
    "ErasureReceipt",
    "What was erased, signed: `manage.py verify_receipt` checks it.",
    Member("version", integer("Of this form.", minimum=1)),
    Member("key_id", string("Which key signed it.", pattern="^[0-9a-f]{16}$")),
    Member("subject", string("Whose it is: an HMAC of the user id, hex.", pattern="^[0-9a-f]{64}$")),
    Member("erased_documents", integer()),
    Member("erased_chunks", integer()),
    Member("key_destroyed", boolean("False only where there was nothing to erase.")),
    Member("unrecoverable_after", moment("From then on no backup of the keys is left that could open anything.")),
    Member("at", moment("When it was done.")),
    Member("signature", string("Ed25519 over the other members as canonical JSON, base64url.", pattern=BASE64URL)),
)


def erasure_receipt(user_id: str, erasure: Erasure) -> dict[str, Any]:
    """The user's receipt, signed over exactly these members."""
    receipt = signed_receipt(
        user_id,
        erased_documents=erasure.erased_documents,
        erased_chunks=erasure.erased_chunks,
        key_destroyed=erasure.key_destroyed,
        unrecoverable_after=rfc3339(erasure.unrecoverable_after),
        at=rfc3339(erasure.at),
    )
    return RECEIPT.render(receipt)
