"""A token issuer's public keys, fetched from its JWKS address and kept while the issuer is down.

JSON Web Key Set: RFC 7517. Imports no Django. The address comes from the configuration alone:
nothing in a token chooses a file, a host or a path.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import IO, Any
from urllib.parse import urlsplit

import jwt

from memory.errors import KeyUnavailable, MemoryServiceError
from memory.formats.strict_json import parse_json
from memory.keys.secret_files import SettingError

FETCH_TIMEOUT_SECONDS = 3.0
FETCH_WAIT_SECONDS = 0.3  # for a fetch that another thread has begun
MAX_SET_BYTES = 256 * 1024
MAX_SET_KEYS = 100
# For how long a key that the issuer has withdrawn may still be accepted here.
LIFETIME_SECONDS = 300.0
# An outage of the issuer of up to this long is not noticed by users whose key is cached.
MAX_AGE_SECONDS = 24 * 3600.0
# A key id that is not in the set is a rotation or a guess, and guesses must not become requests.
UNKNOWN_KID_REFETCH_SECONDS = 30.0
# After a failed fetch, the time in which nobody has to wait for the next failure.
FAILED_FETCH_PAUSE_SECONDS = 5.0

ALGORITHM_BY_KEY_TYPE = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}


@dataclass(frozen=True)
class _KeySet:
    keys: dict[tuple[str | None, str], jwt.PyJWK]
    fetched_at: float

    def has_kid(self, kid: str | None) -> bool:
        return any(known == kid for known, _ in self.keys)


class JwksCache:
    """The keys at `url` that verify one of `algorithms` (among RS256, ES256, EdDSA).

    Safe among threads: one fetches at a time, and those that have keys to go on with do not
    wait for it. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        url: str,
        algorithms: frozenset[str],
        *,
        timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingError("the JWKS address is not an absolute http or https URL")
        self._client = _Client(url, algorithms, timeout_seconds)
        self._clock = clock
        self._fetching = threading.Lock()
        self._latest: _KeySet | None = None
        self._failed_at = -math.inf
        self._refetched_at = -math.inf

    def key(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The public key for a token's `kid` and `alg`; None where the issuer has none.

        A token without `kid` gets the issuer's only key for its algorithm, if there is just one.
        Raises KeyUnavailable when no key fits and the issuer cannot be asked.
        """
        fetched = self._is_stale() and self._fetch_if(self._is_stale, wait=self._usable() is None)
        found = self._cached(kid, algorithm)
        if found is None and not fetched and self._may_be_new(kid) and self._may_refetch():
            self._fetch_if(self._may_refetch, wait=True, refetch=True)
            found = self._cached(kid, algorithm)
        if found is None and self._may_be_new(kid) and self._is_issuer_silent():
            pause = self._failed_at + FAILED_FETCH_PAUSE_SECONDS - self._clock()
            raise KeyUnavailable(
                "The token issuer's keys cannot be fetched.", retry_after_seconds=max(1, math.ceil(pause))
            )
        return found

    def _usable(self) -> _KeySet | None:
        latest = self._latest
        return latest if latest and self._clock() - latest.fetched_at < MAX_AGE_SECONDS else None

    def _cached(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        usable = self._usable()
        if usable is None:
            return None
        if kid is not None:
            return usable.keys.get((kid, algorithm))
        fitting = [key for (_, fits), key in usable.keys.items() if fits == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _may_be_new(self, kid: str | None) -> bool:
        """Whether a fresh set could hold `kid`: not so for one that is known, under another algorithm."""
        usable = self._usable()
        return usable is None or (kid is not None and not usable.has_kid(kid))

    def _is_pausing(self) -> bool:
        return self._clock() - self._failed_at < FAILED_FETCH_PAUSE_SECONDS

    def _is_stale(self) -> bool:
        latest = self._latest
        return not self._is_pausing() and (latest is None or self._clock() - latest.fetched_at >= LIFETIME_SECONDS)

    def _may_refetch(self) -> bool:
        return not self._is_pausing() and self._clock() - self._refetched_at >= UNKNOWN_KID_REFETCH_SECONDS

    def _is_issuer_silent(self) -> bool:
        """Whether the last attempt failed, so that "there is no such key" is not known."""
        usable = self._usable()
        return usable is None or self._failed_at > usable.fetched_at

    def _fetch_if(self, wanted: Callable[[], bool], *, wait: bool, refetch: bool = False) -> bool:
        """Fetch unless another thread has meanwhile made it unnecessary; True if this thread did."""
        # Before admission: whoever waits here holds a thread that nobody counts.
        if not self._fetching.acquire(timeout=FETCH_WAIT_SECONDS if wait else 0):
            return False
        try:
            if not wanted():
                return False
            if refetch:
                self._refetched_at = self._clock()
            try:
                keys = _by_name(self._client.get_jwk_set())
            except (OSError, http.client.HTTPException, ValueError, MemoryServiceError, jwt.PyJWTError):
                self._failed_at = self._clock()
            else:
                self._latest = _KeySet(keys, self._clock())
            return True
        finally:
            self._fetching.release()


class _Client(jwt.PyJWKClient):
    """PyJWT's client, which fetches no more, from nowhere else and for no longer than is allowed here."""

    def __init__(self, url: str, algorithms: frozenset[str], timeout_seconds: float):
        super().__init__(url, cache_jwk_set=False, headers={"Accept": "application/json"}, timeout=timeout_seconds)
        self._algorithms = algorithms
        self._opener = _opener()

    def fetch_data(self) -> dict[str, Any]:
        """The set with its public signature keys only; the rest is passed over, as RFC 7517 section 5 asks."""
        document = parse_json(self._read())
        members = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(members, list):
            raise ValueError("not a key set")
        return {"keys": [key for key in members[:MAX_SET_KEYS] if _algorithm_of(key) in self._algorithms]}

    def _read(self) -> bytes:
        request = urllib.request.Request(self.uri, headers=self.headers)
        deadline = time.monotonic() + 2 * self.timeout
        body = b""
        with self._opener.open(request, timeout=self.timeout) as response:
            # The timeout bounds one read; the deadline bounds an issuer that answers by the byte.
            while chunk := response.read1(65536):
                body += chunk
                if len(body) > MAX_SET_BYTES or time.monotonic() > deadline:
                    raise ValueError("the key set is too long or too slow")
        return body


def _by_name(jwk_set: jwt.PyJWKSet) -> dict[tuple[str | None, str], jwt.PyJWK]:
    """The keys that are long enough, by `kid` and the one algorithm each is for; ValueError where there is none."""
    keys: dict[tuple[str | None, str], jwt.PyJWK] = {}
    for key in jwk_set:
        if key.Algorithm.check_key_length(key.key) is None:
            kid = key.key_id if isinstance(key.key_id, str) else None
            keys.setdefault((kid, key.algorithm_name), key)
    if not keys:
        raise ValueError("no usable key")
    return keys


def _algorithm_of(member: Any) -> str | None:
    """The one algorithm a JWK is for; None for what is no public signature key of ours."""
    if not isinstance(member, dict) or "d" in member or member.get("use", "sig") != "sig":
        return None
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    kty, crv = member.get("kty"), member.get("crv")
    if not isinstance(kty, str) or not isinstance(crv, str | None):
        return None
    algorithm = ALGORITHM_BY_KEY_TYPE.get((kty, crv))
    return algorithm if member.get("alg", algorithm) == algorithm else None


class _SameOriginRedirects(urllib.request.HTTPRedirectHandler):
    """Whoever serves another origin could say who every user is; its address belongs into the setting."""

    max_redirections = 3

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if _origin(newurl) != _origin(req.full_url):
            raise ValueError("redirected to another origin")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port (RFC 6454)."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _opener() -> urllib.request.OpenerDirector:
    """An opener of http and https only: urllib's default one also opens file:, ftp: and data: addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameOriginRedirects(),
    ):
        opener.add_handler(handler)
    return opener
