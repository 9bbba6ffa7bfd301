"""Requests that may be sent twice and are carried out once.

The first answer to a key is sealed and kept in the transaction that did the work, so there is no moment at which one
is there without the other: a crash leaves nothing, and a second caller, who waits for the tenant's row
like every writer, then finds the answer. Key and request are kept as HMACs under a sub-key of the user's data key:
when that is rotated or destroyed, what was remembered under it is as if it had never been.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memory import metrics
from memory.errors import DecryptionFailed, IdempotencyConflict, StaleKeys
from memory.rls import TenantTransaction
from memory.sealing.columns import open_answer, seal_answer
from memory.sealing.keyring import Purpose, TenantKeys
from memory.security import InvalidTag, associated_data

IDEMPOTENCY_HOURS = 24

_FIND = """
SELECT status, body_mac, answer_cipher FROM memory_idempotency
WHERE user_hash = %s AND key_mac = %s AND generation = %s AND created_at > now() - make_interval(hours => %s)"""
_FORGET_EXPIRED = """
DELETE FROM memory_idempotency WHERE user_hash = %s AND created_at <= now() - make_interval(hours => %s)"""
_REMEMBER = """
INSERT INTO memory_idempotency (user_hash, key_mac, body_mac, status, generation, answer_cipher)
VALUES (%s, %s, %s, %s, %s, %s)"""
_COUNT_SEAL = "UPDATE memory_tenants SET seal_count = seal_count + 1 WHERE user_hash = %s"


@dataclass(frozen=True)
class RenderedAnswer:
    """An answer as it goes out: its status, its body in bytes, and whether it is given again."""

    status: int
    body: bytes
    replayed: bool = False


@dataclass(frozen=True)
class IdempotentCall:
    """One request under an Idempotency-Key.

    `request` is its canonical form: two requests are the same when these bytes are. `render` makes the answer
    of the result; it is called inside the transaction, since the answer must not change after it.
    """

    key: str
    request: bytes
    render: Callable[[Any], RenderedAnswer]

    def recall(self, tx: TenantTransaction, keys: TenantKeys) -> RenderedAnswer | None:
        """The first answer to this key within the last 24 hours; None where there was none under these keys.

        Raises StaleKeys when `keys` are not the user's live ones, IdempotencyConflict when the answer was given to
        another request, DecryptionFailed when it does not open.
        """
        if not keys.matches(tx.state()):
            raise StaleKeys(retry_after_seconds=1)
        key_mac, body_mac = self._macs(keys)
        row = tx.execute(_FIND, [tx.user_hash, key_mac, keys.generation, IDEMPOTENCY_HOURS]).fetchone()
        if row is None:
            return None
        status, stored_mac, answer = row
        if not hmac.compare_digest(bytes(stored_mac), body_mac):
            raise IdempotencyConflict()
        try:
            body = open_answer(keys, key_mac, body_mac, status, bytes(answer))
        except InvalidTag:
            metrics.decrypt_failed.labels("answer_cipher").inc()
            raise DecryptionFailed() from None
        return RenderedAnswer(status, body, replayed=True)

    def remember(self, tx: TenantTransaction, keys: TenantKeys, result: Any) -> RenderedAnswer:
        """Render `result` and keep the answer with what `tx` writes; the user's expired ones go.

        `tx` has locked the tenant's row, `recall` found nothing in it, and `keys` are the live ones.
        """
        answer = self.render(result)
        key_mac, body_mac = self._macs(keys)
        sealed = seal_answer(keys, key_mac, body_mac, answer.status, answer.body)
        tx.execute(_FORGET_EXPIRED, [tx.user_hash, IDEMPOTENCY_HOURS])
        tx.execute(_REMEMBER, [tx.user_hash, key_mac, body_mac, answer.status, keys.generation, sealed])
        tx.execute(_COUNT_SEAL, [tx.user_hash])
        return answer

    def _macs(self, keys: TenantKeys) -> tuple[bytes, bytes]:
        secret = keys.subkey(Purpose.IDEMPOTENCY)
        return (
            hmac.digest(secret, associated_data("key", self.key), "sha256"),
            hmac.digest(secret, associated_data("request", self.request), "sha256"),
        )
