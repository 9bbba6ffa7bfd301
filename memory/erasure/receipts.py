"""Receipts of erasures: what was erased and when, signed so that anybody can check it. Pure: no Django.

The signature is Ed25519 (RFC 8032) over the receipt without it as canonical JSON: UTF-8, members in the order of their
names, no white space, nothing escaped that need not be. Whose receipt it is says `subject`, an HMAC of the user id
under a key of receipts' own: it stays the same when users are renamed, and tells nobody the id. The private key is
derived from the newest MEMORY_RECEIPT_KEY, and `key_id` names that.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from memory.formats.base64url import base64url, from_base64url
from memory.keys.receipt_keys import ReceiptKey, receipt_keys
from memory.security import canonical_user_id

RECEIPT_VERSION = 1
_MEMBERS: dict[str, type] = {
    "version": int,
    "key_id": str,
    "subject": str,
    "erased_documents": int,
    "erased_chunks": int,
    "key_destroyed": bool,
    "unrecoverable_after": str,
    "at": str,
    "signature": str,
}


@dataclass(frozen=True)
class Receipt:
    """Times are RFC 3339 in UTC, as they are signed; `subject` is hex, `signature` base64url without padding."""

    version: int
    key_id: str
    subject: str
    erased_documents: int
    erased_chunks: int
    key_destroyed: bool
    unrecoverable_after: str
    at: str
    signature: str


def signed_receipt(user_id: str, **fields: Any) -> Receipt:
    """The receipt of what was erased for one user. The same fields give the same signature.

    `fields`: erased_documents, erased_chunks, key_destroyed, unrecoverable_after and at.
    """
    key = receipt_keys()[0]
    signed = {"version": RECEIPT_VERSION, "key_id": key.key_id, "subject": _subject(key, user_id), **fields}
    return Receipt(**signed, signature=base64url(_private_key(key).sign(_message(signed))))


def is_valid(receipt: Any, user_id: str | None = None) -> bool:
    """Whether `receipt`, a parsed JSON value, is one this service signed: all its members and no other.

    With `user_id` also whether it is that user's. Raises InvalidUserId.
    """
    if user_id is not None:
        canonical_user_id(user_id)
    if not isinstance(receipt, dict) or receipt.keys() != _MEMBERS.keys():
        return False
    if any(type(receipt[name]) is not kind for name, kind in _MEMBERS.items()):
        return False
    key = next((key for key in receipt_keys() if key.key_id == receipt["key_id"]), None)
    if key is None or receipt["version"] != RECEIPT_VERSION:
        return False
    if user_id is not None and not hmac.compare_digest(_subject(key, user_id), receipt["subject"]):
        return False
    try:
        _private_key(key).public_key().verify(from_base64url(receipt["signature"]), _message(receipt))
    except (ValueError, InvalidSignature):
        return False
    return True


def public_keys() -> dict[str, str]:
    """What receipts are verified with, by anybody: key id -> public key as PEM (SubjectPublicKeyInfo), newest first."""
    return {
        key.key_id: _private_key(key)
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode()
        for key in receipt_keys()
    }


def _private_key(key: ReceiptKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.derived("erasure-receipt"))


def _subject(key: ReceiptKey, user_id: str) -> str:
    return hmac.digest(key.derived("receipt-subject"), canonical_user_id(user_id).encode(), "sha256").hex()


def _message(receipt: dict[str, Any]) -> bytes:
    signed = {name: receipt[name] for name in _MEMBERS if name != "signature"}
    return json.dumps(signed, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
