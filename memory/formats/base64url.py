"""base64url without padding (RFC 4648, section 5), as JWTs have it. Pure."""

from __future__ import annotations

import base64


def base64url(raw: bytes) -> str:
    """`raw` in the URL-safe alphabet, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """The bytes of which `base64url` makes exactly `text`; of any other text, raises ValueError."""
    raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if base64url(raw) != text:
        raise ValueError("not canonical base64url")
    return raw
