"""A key server's transit engine: OpenBao, or HashiCorp Vault. It wraps and unwraps, and its key never leaves it.

API: https://openbao.org/api-docs/secret/transit/. Pure: no Django. Nothing that goes there or comes back is logged, no
redirect is followed and no proxy of the environment asked. A server that fails is left alone for a while
(`reranker.breaker.Breaker`; the next call after that is its probe), so that nobody waits for it meanwhile.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

from memory.errors import KeyUnavailable
from memory.keys.secret_files import SettingError
from reranker.breaker import Breaker

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# What a ciphertext begins with; behind it stands base64 of nonce, ciphertext and tag, as `memory.security.seal` makes.
_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+=*)")
_ANSWER_MAX_BYTES = 64 * 1024
# The server's words for a ciphertext that is damaged or bound to something else; all else is no word about the blob.
_NOT_AUTHENTIC = "message authentication failed"
RETRY_AFTER_SECONDS = 1


class NotAuthentic(Exception):
    """The blob does not open under this key and what it is said to be bound to."""


@dataclass(frozen=True)
class TransitAddress:
    """Where the engine is. `token` gives the present token, which a file may renew; no `ca_file`: the machine's own.

    Raises SettingError for an address, mount or name that cannot be one.
    """

    url: str
    mount: str
    key_name: str
    token: Callable[[], str] = field(repr=False)
    namespace: str = ""
    ca_file: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise SettingError("MEMORY_TRANSIT_URL is not an absolute http or https URL")
        if not NAME_PATTERN.fullmatch(self.key_name):
            raise SettingError("MEMORY_TRANSIT_KEY must be 1 to 64 letters, digits, - and _")
        if not all(NAME_PATTERN.fullmatch(part) for part in self.mount.split("/")):
            raise SettingError("MEMORY_TRANSIT_MOUNT must be a path of letters, digits, - and _")


class Transit:
    """The engine's key `key_name`; any thread may call, each call has a connection of its own.

    `observe(operation, outcome, milliseconds)` is told of each call: outcome "ok", "damaged", or why it failed.
    """

    def __init__(
        self, address: TransitAddress, *, observe: Callable[[str, str, float], None] = lambda *told: None,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self.key_name = address.key_name
        self._address = address
        self._observe = observe
        self._breaker = Breaker(clock)
        self._parts = urlsplit(address.url)
        self._tls = ssl.create_default_context(cafile=address.ca_file or None)

    def wrap(self, key: bytes, associated_data: bytes, *, timeout_seconds: float) -> tuple[int, bytes]:
        """(version, blob): `key` under the newest version of the server's key, nonce, ciphertext and tag.

        Raises KeyUnavailable.
        """
        said = {"plaintext": _base64(key), "associated_data": _base64(associated_data)}
        answer = self._call("encrypt", said, timeout_seconds)
        found = _CIPHERTEXT.fullmatch(str(answer.get("ciphertext")))
        if found is None:
            raise _unavailable()
        return int(found[1]), base64.b64decode(found[2])

    def unwrap(self, version: int, blob: bytes, associated_data: bytes, *, timeout_seconds: float) -> bytes:
        """The inverse of `wrap`. Raises NotAuthentic, KeyUnavailable."""
        said = {"ciphertext": f"vault:v{version}:{_base64(blob)}", "associated_data": _base64(associated_data)}
        answer = self._call("decrypt", said, timeout_seconds)
        try:
            return base64.b64decode(answer["plaintext"], validate=True)
        except (KeyError, TypeError, ValueError):
            raise _unavailable() from None

    def _call(self, operation: str, said: dict[str, str], timeout_seconds: float) -> dict[str, Any]:
        is_probe = self._breaker.begin_probe()
        if not is_probe and self._breaker.state != "closed":
            self._observe(operation, "left_alone", 0.0)
            raise _unavailable(self._breaker.seconds_until_probe())
        started, outcome = time.monotonic(), "unreachable"
        try:
            status, answer = self._post(operation, said, timeout_seconds)
            outcome = _outcome(status, answer)
        except TimeoutError:
            outcome = "timeout"
        except (OSError, http.client.HTTPException, ValueError):
            pass
        finally:
            # A refusal is quick, and no reason to ask for less.
            hung = outcome in ("unreachable", "timeout")
            if is_probe:
                self._breaker.end_probe(good=not hung)
            else:
                self._breaker.record(slow=hung)
            self._observe(operation, outcome, (time.monotonic() - started) * 1_000)
        if outcome == "damaged":
            raise NotAuthentic()
        if outcome != "ok":
            raise _unavailable()
        data: dict[str, Any] = answer["data"]
        return data

    def _post(self, operation: str, said: dict[str, str], timeout_seconds: float) -> tuple[int, dict[str, Any]]:
        deadline = time.monotonic() + timeout_seconds
        address = self._address
        headers = {"X-Vault-Token": address.token(), "X-Vault-Request": "true", "Content-Type": "application/json"}
        if address.namespace:
            headers["X-Vault-Namespace"] = address.namespace
        path = f"{self._parts.path.rstrip('/')}/v1/{address.mount}/{operation}/{quote(address.key_name, safe='')}"
        connection = self._connection(timeout_seconds)
        try:
            connection.request("POST", path, json.dumps(said), headers)
            response = connection.getresponse()
            raw = b""
            # The timeout bounds one read; the deadline bounds a server that answers by the byte.
            while block := response.read1(65_536):
                raw += block
                if len(raw) > _ANSWER_MAX_BYTES:
                    raise ValueError("an answer too long")
                if time.monotonic() > deadline:
                    raise TimeoutError
        finally:
            connection.close()
        answer = json.loads(raw) if raw else {}
        return response.status, answer if isinstance(answer, dict) else {}

    def _connection(self, timeout_seconds: float) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=timeout_seconds)


def _outcome(status: int, answer: dict[str, Any]) -> str:
    if status == 200 and isinstance(answer.get("data"), dict):
        return "ok"
    errors = answer.get("errors")
    told = " ".join(map(str, errors)) if isinstance(errors, list) else ""
    if status == 400 and _NOT_AUTHENTIC in told:
        return "damaged"
    if status == 403:
        return "denied"
    return "sealed" if status == 503 else "refused"


def _unavailable(seconds: float | None = None) -> KeyUnavailable:
    wait = max(RETRY_AFTER_SECONDS, round(seconds or 0))
    return KeyUnavailable("The key server cannot be asked.", retry_after_seconds=wait)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
