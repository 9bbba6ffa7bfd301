"""The claims of a token whose signature holds (RFC 7519): which are demanded, and what is made of them.

Imports no Django.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

from memory.errors import ExpiredToken, InvalidToken, InvalidUserId, TokenLivesTooLong
from memory.security import canonical_user_id

# 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
LATEST_TIME = 253_402_300_799


@dataclass(frozen=True)
class VerifiedToken:
    """What a verified token says: the canonical user id, the scopes it carries (None: it has no
    `scope` claim, everything is allowed), and its `exp` in Unix seconds."""

    user_id: str
    scopes: frozenset[str] | None
    expires_at: float


@dataclass(frozen=True)
class ClaimRules:
    """What a token's claims must be: `iss`, `aud`, and times within `leeway_seconds` of the clock.

    `max_seconds` bounds a token's life, `exp` less `iat`; 0 does not.
    """

    issuer: str
    audience: str
    leeway_seconds: float
    max_seconds: int

    def checked(self, claims: dict[str, Any]) -> VerifiedToken:
        """What verified claims say. Raises InvalidToken; ExpiredToken or TokenLivesTooLong where only that is wrong."""
        now = time.time()
        issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
        starts = [issued_at]
        if "nbf" in claims:
            starts.append(_time(claims, "nbf"))
        if max(starts) > now + self.leeway_seconds:
            refuse("not_yet_valid")
        issuer = claims.get("iss")
        if not isinstance(issuer, str) or issuer != self.issuer:
            refuse("issuer")
        audience = claims.get("aud")
        audiences = [audience] if isinstance(audience, str) else audience
        if not _is_list_of_strings(audiences) or self.audience not in audiences:
            refuse("audience")
        user_id: str | None
        try:
            user_id = canonical_user_id(claims.get("sub"))
        except InvalidUserId:
            user_id = None
        if user_id is None:
            refuse("subject")
        scopes = _scopes(claims)
        # Last, as these are told: by now the token is one that its issuer signed for us.
        if now >= expires_at + self.leeway_seconds:
            refuse("expired", ExpiredToken())
        if self.max_seconds and expires_at - issued_at > self.max_seconds:
            refuse("lifetime", TokenLivesTooLong())
        return VerifiedToken(user_id, scopes, expires_at)


def refuse(reason: str, refusal: InvalidToken | None = None) -> NoReturn:
    """Raise `refusal`, an InvalidToken unless it is given, with `reason`: one word of a closed set."""
    refusal = refusal or InvalidToken()
    refusal.reason = reason
    raise refusal


def _time(claims: dict[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519, section 2) as a float; `True` is an int to Python and no time at all."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST_TIME:
        refuse("time")
    return float(value)


def _is_list_of_strings(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _scopes(claims: dict[str, Any]) -> frozenset[str] | None:
    if "scope" not in claims:
        return None
    scope = claims["scope"]
    words = scope.split(" ") if isinstance(scope, str) else scope
    if not _is_list_of_strings(words):
        refuse("scope")
    return frozenset(word for word in words if word)
