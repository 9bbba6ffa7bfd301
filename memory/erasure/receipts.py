"""Receipts of erasures: what was erased and when, signed so that anybody can check it. Pure: no Django.

The signature is Ed25519 (RFC 8032) over the receipt without it, with the user's hash beside it, as canonical
JSON: UTF-8, members in the order of their names, no white space, nothing escaped that need not be. The private
key is derived from the tenant HMAC key, so that every worker signs alike and no setting holds another secret.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from memory.formats.base64url import base64url, from_base64url
from memory.keys.service_keys import service_key

SIGNED_FIELDS = ("erased_documents", "erased_chunks", "key_destroyed", "unrecoverable_after", "at")
_FIELDS = (*SIGNED_FIELDS, "signature")
_TYPES = (int, int, bool, str, str, str)
_PURPOSE = "erasure-receipt"


@dataclass(frozen=True)
class Receipt:
    """Times are RFC 3339 in UTC, as they are signed; `signature` is base64url without padding."""

    erased_documents: int
    erased_chunks: int
    key_destroyed: bool
    unrecoverable_after: str
    at: str
    signature: str


def signed_receipt(user_hash: str, **fields: Any) -> Receipt:
    """The receipt of these SIGNED_FIELDS for one user. The same fields give the same signature."""
    signature = _private_key().sign(_message(user_hash, fields))
    return Receipt(**fields, signature=base64url(signature))


def is_valid(user_hash: str, receipt: Any) -> bool:
    """Whether `receipt`, a parsed JSON value, is one this service signed for this user: all its fields and no other."""
    if not isinstance(receipt, dict) or receipt.keys() != set(_FIELDS):
        return False
    if any(type(receipt[name]) is not kind for name, kind in zip(_FIELDS, _TYPES, strict=True)):
        return False
    try:
        signature = from_base64url(receipt["signature"])
        _private_key().public_key().verify(signature, _message(user_hash, receipt))
    except (ValueError, InvalidSignature):
        return False
    return True


def public_key_pem() -> str:
    """What receipts are verified with, by anybody: the public key as PEM (SubjectPublicKeyInfo)."""
    return _private_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _private_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(service_key(_PURPOSE))


def _message(user_hash: str, receipt: dict[str, Any]) -> bytes:
    signed = {name: receipt[name] for name in SIGNED_FIELDS} | {"user_hash": user_hash}
    return json.dumps(signed, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
