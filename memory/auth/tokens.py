"""Bearer tokens: signed JWTs, verified strictly; nothing else says who the user is.

RFC 7519 (claims), RFC 7515 (signatures), both by PyJWT, RFC 8725 (best practice), RFC 6750 (the
header). Imports no Django. Every refusal is the same `InvalidToken` to the client, except of a token that is good
but for its times: its holder is told what is wrong with them. `reason` says which rule refused, in one word
of a closed set, for logs and metrics.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import jwt

from memory.auth.claims import ClaimRules, VerifiedToken, json_object, refuse
from memory.auth.jwks import JwksCache
from memory.auth.mint import SYMMETRIC_ALGORITHMS
from memory.errors import MissingToken
from memory.formats.base64url import from_base64url
from memory.keys.secret_files import SettingError
from memory.keys.secret_strength import asymmetric_key_reason, weak_secret_reason

ASYMMETRIC_ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
TOKEN_MAX_BYTES = 8192
# So many verified tokens are remembered in this process, in some 3 MB and 8 at most: none that is longer, or has more
# scopes, which as a set are many times as large as in the token.
REMEMBERED_MAX = 4096
REMEMBERED_BYTES, REMEMBERED_SCOPES = 1024, 8

# "crit" asks for extensions we have none of; the others carry or point to a key of the sender's choice.
_REFUSED_HEADERS = frozenset({"crit", "jku", "jwk", "x5u", "x5c", "b64"})
# RFC 7519 and RFC 9068 (access tokens); a token of another kind, such as an ID token that says so, is not for us.
_TYPES = frozenset({"jwt", "at+jwt"})
_COMPACT = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){2}")
_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True)
class _Remembered:
    """A token that was good at `verified_at`, in Unix seconds, by `key`, which its header named so."""

    verified: VerifiedToken
    key_header: dict[str, Any]
    algorithm: str
    key: Any = field(repr=False)
    verified_at: float


class TokenVerifier:
    """Verifies tokens of one issuer for one audience, with one source of keys.

    `algorithms` is the allow-list, among HS256, RS256, ES256, EdDSA. Exactly one of `secret`
    (bytes or text, HS256 only), `public_key` (PEM, with the one algorithm of its type) and
    `jwks_url` (any of the asymmetric ones; each key is bound to one) is given. Anything else
    raises SettingError: a key that two families of algorithms accept is how a public key becomes
    an HMAC secret (RFC 8725, section 3.1).

    `key_id` names the secret or the public key: a token whose `kid` is another is refused. One without `kid` is not,
    as RFC 7515 leaves it to the issuer; the signature decides. `max_seconds` bounds a token's life, `exp` less `iat`;
    0 does not.
    """

    def __init__(
        self,
        algorithms: Iterable[str],
        secret: str | bytes | None = None,
        public_key: str | bytes | None = None,
        jwks_url: str | None = None,
        *,
        issuer: str,
        audience: str,
        leeway_seconds: float = 30,
        key_id: str | None = None,
        max_seconds: int = 0,
    ):
        self._algorithms = frozenset([algorithms] if isinstance(algorithms, str) else algorithms)
        if not self._algorithms or self._algorithms - SYMMETRIC_ALGORITHMS - ASYMMETRIC_ALGORITHMS:
            raise SettingError("the token algorithms are not among HS256, RS256, ES256, EdDSA")
        if sum(1 for source in (secret, public_key, jwks_url) if source) != 1:
            raise SettingError("tokens need exactly one of a secret, a public key and a JWKS address")
        if not issuer or not audience:
            raise SettingError("tokens need an issuer and an audience")
        if key_id and jwks_url:
            raise SettingError("a token key id goes with a secret or a public key; a JWKS names its own keys")
        self._key_id = key_id
        self._claim_rules = ClaimRules(issuer, audience, leeway_seconds, max_seconds)
        self._implementations = {name: jwt.get_algorithm_by_name(name) for name in self._algorithms}
        self._remembered: dict[bytes, _Remembered] = {}
        self._key: Any = None
        self._jwks: JwksCache | None = None
        if secret:
            self._key = self._prepared_secret(secret)
        elif public_key:
            self._key = self._prepared_public_key(public_key)
        elif self._algorithms - ASYMMETRIC_ALGORITHMS:
            raise SettingError("a JWKS address goes with RS256, ES256, EdDSA, never with HS256")
        else:
            self._jwks = JwksCache(str(jwks_url), self._algorithms)

    def verify(self, token: str) -> VerifiedToken:
        """The user and scopes of a compact JWS; raises InvalidToken, or KeyUnavailable (JWKS only).

        A token that was found good is remembered, by its digest: its signature and claims are the same the next time.
        Its key and its end are looked at each time.
        """
        if not isinstance(token, str) or len(token) > TOKEN_MAX_BYTES:
            refuse("size")
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        remembered = self._remembered.get(digest)
        if remembered is not None and self._still_holds(remembered):
            return remembered.verified
        header = _header(token)
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            refuse("algorithm")
        if not _REFUSED_HEADERS.isdisjoint(header):
            refuse("header")
        if "typ" in header and not _is_our_type(header["typ"]):
            refuse("type")
        # PyJWT takes padding too, and an empty signature for a wrong one.
        if not _COMPACT.fullmatch(token):
            refuse("format")
        key = self._key_for(header, algorithm)
        verified = self._claim_rules.verified(token, key, list(self._algorithms))
        if len(token) <= REMEMBERED_BYTES and len(verified.scopes or ()) <= REMEMBERED_SCOPES:
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            key_header = {"kid": header["kid"]} if "kid" in header else {}
            self._remembered[digest] = _Remembered(verified, key_header, algorithm, key, time.time())
        return verified

    def _still_holds(self, remembered: _Remembered) -> bool:
        """Whether its key is the issuer's still, and the clock between then and its end. Raises as `_key_for`."""
        ends_at = remembered.verified.expires_at + self._claim_rules.leeway_seconds
        if not remembered.verified_at <= time.time() < ends_at:
            return False
        if self._key_for(remembered.key_header, remembered.algorithm) is remembered.key:
            return True
        # The issuer's keys were fetched anew: those before, and what was verified by them, serve nobody any more.
        self._remembered.clear()
        return False

    def _prepared_secret(self, secret: str | bytes) -> Any:
        if self._algorithms - SYMMETRIC_ALGORITHMS:
            raise SettingError("a token secret goes with HS256 only")
        raw = secret.encode() if isinstance(secret, str) else bytes(secret)
        reason = asymmetric_key_reason(raw) or weak_secret_reason(raw)
        if reason:
            raise SettingError(f"the token secret {reason}")
        try:
            return self._implementations["HS256"].prepare_key(raw)
        except jwt.InvalidKeyError:
            raise SettingError("the token secret looks like a key of another kind") from None

    def _prepared_public_key(self, public_key: str | bytes) -> Any:
        if len(self._algorithms) != 1 or self._algorithms - ASYMMETRIC_ALGORITHMS:
            raise SettingError("a public key goes with exactly one of RS256, ES256, EdDSA")
        (implementation,) = self._implementations.values()
        try:
            key = implementation.prepare_key(public_key)
        except (jwt.PyJWTError, ValueError, TypeError):
            raise SettingError("the token public key is not a PEM key for its algorithm") from None
        if hasattr(key, "private_bytes"):
            raise SettingError("the token public key holds a private key, which does not belong here")
        if implementation.check_key_length(key):
            raise SettingError("the token public key is too short")
        return key

    def _key_for(self, header: dict[str, Any], algorithm: str) -> Any:
        kid = header.get("kid")
        if "kid" in header and not isinstance(kid, str):
            refuse("header")
        key = self._jwks.key(kid, algorithm) if self._jwks else self._key
        if key is None or (self._key_id and kid not in (None, self._key_id)):
            refuse("key")
        return key


def bearer_token(header_value: str | None) -> str:
    """The token in an `Authorization` header (RFC 6750, section 2.1), not yet verified.

    Raises MissingToken without a header, without a token or for another scheme; InvalidToken for
    more than one token (two headers arrive joined by a comma) or characters no token has.
    """
    scheme, _, rest = (header_value or "").strip(" ").partition(" ")
    token = rest.strip(" ")
    if scheme.lower() != "bearer" or not token:
        raise MissingToken
    if len(token) > TOKEN_MAX_BYTES:
        refuse("size")
    if not _B64TOKEN.fullmatch(token):
        refuse("format")
    return token


def _header(token: str) -> dict[str, Any]:
    """A compact token's header, not verified: strict JSON in base64url of one spelling (RFC 7515, section 2)."""
    raw = b""  # which is no JSON
    with suppress(ValueError):
        raw = from_base64url(token.partition(".")[0])
    return json_object(raw)


def _is_our_type(value: Any) -> bool:
    """A media type without regard to case, whose `application/` may be left out (RFC 7515, section 4.1.9)."""
    return isinstance(value, str) and value.lower().removeprefix("application/") in _TYPES
