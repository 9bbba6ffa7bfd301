"""The claims of a token whose signature holds (RFC 7519): which are demanded, and what is made of them.

Imports no Django.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

import jwt
from jwt.exceptions import InvalidSubjectError

from memory.errors import (
    ExpiredToken,
    InvalidToken,
    InvalidUserId,
    MalformedJSON,
    NestingTooDeep,
    TokenLivesTooLong,
)
from memory.formats.strict_json import parse_json
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

    def verified(self, token: str, key: Any, algorithms: list[str]) -> VerifiedToken:
        """What a compact token says that `key` has signed by one of `algorithms`.

        Raises InvalidToken; ExpiredToken or TokenLivesTooLong where only that is wrong.
        """
        reason = None
        try:
            decoded = _DECODER.decode_complete(
                token, key, algorithms, audience=self.audience, issuer=self.issuer, leeway=self.leeway_seconds
            )
        except jwt.PyJWTError as error:
            reason = _word_of(error)
        # Raised out here: PyJWT's error may hold what is in the token, and would be the refusal's context.
        if reason:
            refuse(reason)
        claims = decoded["payload"]
        user_id: str | None
        try:
            user_id = canonical_user_id(claims["sub"])
        except InvalidUserId:
            user_id = None
        if user_id is None:
            refuse("subject")
        scopes = _scopes(claims)
        issued_at, expires_at = float(claims["iat"]), float(claims["exp"])
        # Last, as these are told: by now the token is one that its issuer signed for us.
        if time.time() >= expires_at + self.leeway_seconds:
            refuse("expired", ExpiredToken())
        if self.max_seconds and expires_at - issued_at > self.max_seconds:
            refuse("lifetime", TokenLivesTooLong())
        return VerifiedToken(user_id, scopes, expires_at)


class _Decoder(jwt.PyJWT):
    """PyJWT, but its claims are strict JSON and its times are numbers, where it would take `true` and `"1"`."""

    def _decode_payload(self, decoded: dict[str, Any]) -> dict[str, Any]:
        """Called by `decode_complete` between the signature and the claims."""
        claims = json_object(decoded["payload"])
        for name in _TIMES & claims.keys():
            if not _is_time(claims[name]):
                refuse("time")
        return claims


def json_object(raw: bytes) -> dict[str, Any]:
    """Strict JSON (`parse_json`) that is an object; raises InvalidToken for anything else."""
    try:
        value = parse_json(raw)
    except (MalformedJSON, NestingTooDeep):
        value = None
    if not isinstance(value, dict):
        refuse("format")
    return value


def refuse(reason: str, refusal: InvalidToken | None = None) -> NoReturn:
    """Raise `refusal`, an InvalidToken unless it is given, with `reason`: one word of a closed set."""
    refusal = refusal or InvalidToken()
    refusal.reason = reason
    raise refusal


_TIMES = frozenset({"iat", "exp", "nbf"})
# By the claim that is missing, or else by the first kind that fits: which rule has refused.
_WORDS_OF_CLAIMS = {"iss": "issuer", "aud": "audience", "sub": "subject", "iat": "time", "exp": "time"}
_WORDS_OF_ERRORS: dict[type[jwt.PyJWTError], str] = {
    jwt.InvalidSignatureError: "signature",
    jwt.InvalidKeyError: "signature",
    jwt.ImmatureSignatureError: "not_yet_valid",
    jwt.InvalidIssuerError: "issuer",
    jwt.InvalidAudienceError: "audience",
    InvalidSubjectError: "subject",
}
# Not `exp`, which is told to its holder and so comes last; not `jti`, which means nothing here.
_DECODER = _Decoder(
    {
        "require": list(_WORDS_OF_CLAIMS),
        "verify_exp": False,
        "verify_jti": False,
        "enforce_minimum_key_length": True,
    }
)


def _word_of(error: jwt.PyJWTError) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return _WORDS_OF_CLAIMS[error.claim]
    return next((word for kind, word in _WORDS_OF_ERRORS.items() if isinstance(error, kind)), "format")


def _is_time(value: Any) -> bool:
    """A NumericDate (RFC 7519, section 2); `True` is an int to Python and no time at all."""
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= LATEST_TIME


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
