"""Whether a shared secret is fit to sign tokens with. Imports no Django.

HS256 needs a key of at least 32 bytes (RFC 7518, section 3.2) that nobody can guess, and one that
nobody publishes: the text of a public key, used as an HMAC secret, is known to everyone.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

MIN_SECRET_BYTES = 32
MIN_DISTINCT_BYTES = 8

_PLACEHOLDERS = (
    "changeit", "changeme", "changethis", "default", "djangoinsecure", "example", "insecure", "notasecret",
    "password", "placeholder", "replaceme", "replacethis", "secretkey", "secretsecret", "supersecret",
    "thisisasecret", "topsecret", "verysecret", "your256bitsecret", "yourownsecret", "yoursecret",
)  # fmt: skip


def weak_secret_reason(secret: bytes) -> str | None:
    """Why `secret` is too easy to guess, to stand after "the secret ..."; None if nothing is wrong.

    Fewer than 32 bytes, fewer than 8 different ones, one pattern repeated, a run such as
    `abcdef...`, or a well-known placeholder. It finds carelessness, not every low-entropy secret.
    """
    if len(secret) < MIN_SECRET_BYTES:
        return f"has {len(secret)} bytes; at least {MIN_SECRET_BYTES} are needed"
    if len(set(secret)) < MIN_DISTINCT_BYTES:
        return f"has fewer than {MIN_DISTINCT_BYTES} different bytes"
    if any(secret[period:] == secret[:-period] for period in range(1, len(secret) // 2 + 1)):
        return "repeats one pattern"
    steps = [after - before for before, after in itertools.pairwise(secret)]
    if max(steps.count(1), steps.count(-1)) > len(steps) // 2:
        return "is a run of neighbouring characters"
    letters = re.sub(r"[^a-z0-9]", "", secret.decode("ascii", "replace").lower())
    if any(word in letters for word in _PLACEHOLDERS):
        return "is a well-known placeholder"
    return None


def asymmetric_key_reason(secret: bytes) -> str | None:
    """Why `secret` looks like a key or certificate of another kind: PEM, SSH, JWK, DER, or DER in base64."""
    text = secret.strip()
    if b"-----BEGIN" in text or text.startswith((b"ssh-", b"ecdsa-sha2-")):
        return "is a key file of another kind"
    if _is_json_key(text):
        return "is a JSON Web Key"
    if _is_der_key(secret) or _is_der_key(_unarmoured(text)):
        return "is a key of another kind in DER"
    return None


def _is_json_key(text: bytes) -> bool:
    if not text.startswith((b"{", b"[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _unarmoured(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/")) + b"==")
    except binascii.Error:
        return b""


def _is_der_key(raw: bytes) -> bool:
    """Whether `raw` is a DER SEQUENCE (first byte 0x30) that is a public key, private key or certificate."""
    if not raw.startswith(b"\x30"):
        return False
    for load in (
        serialization.load_der_public_key,
        lambda der: serialization.load_der_private_key(der, password=None),
        x509.load_der_x509_certificate,
    ):
        try:
            load(raw)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        return True
    return False
