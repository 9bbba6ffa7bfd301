"""Tokens issued here, for development and tests: HS256, as `TokenVerifier` takes them. Imports no Django."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable

import jwt

from memory.keys.secret_files import SettingError
from memory.keys.secret_strength import asymmetric_key_reason, weak_secret_reason
from memory.security import canonical_user_id

SYMMETRIC_ALGORITHMS = frozenset({"HS256"})


def mint(
    user_id: str,
    *,
    secret: str | bytes,
    algorithm: str,
    issuer: str,
    audience: str,
    ttl_seconds: int,
    scope: str | Iterable[str] | None = None,
    key_id: str | None = None,
) -> str:
    """A signed token for `user_id`, valid from now for `ttl_seconds`, with `key_id` as its `kid`.

    `scope` is one string of space-separated words or several words; None leaves the claim out.
    Raises InvalidUserId for an id that is not canonical, SettingError for a weak secret, an
    algorithm that is not symmetric, or a lifetime that is not positive.
    """
    if algorithm not in SYMMETRIC_ALGORITHMS:
        raise SettingError("only HS256 tokens can be issued here")
    raw = secret.encode() if isinstance(secret, str) else bytes(secret)
    reason = asymmetric_key_reason(raw) or weak_secret_reason(raw)
    if reason:
        raise SettingError(f"the token secret {reason}")
    if ttl_seconds <= 0:
        raise SettingError("a token's lifetime is at least one second")
    now = int(time.time())
    claims = {
        "sub": canonical_user_id(user_id),
        "iss": issuer,
        "aud": audience,
        "iat": now,
        "exp": now + int(ttl_seconds),
        "jti": uuid.uuid4().hex,
    }
    if scope is not None:
        claims["scope"] = scope if isinstance(scope, str) else " ".join(scope)
    return jwt.encode(claims, raw, algorithm=algorithm, headers={"kid": key_id} if key_id else None)
