"""Requests that may be sent twice and are carried out once.

The first answer to a key is sealed and kept in the transaction that did the work, so there is no moment at which one
is there without the other: a crash leaves nothing, and a second caller, who waits for the tenant's row
like every writer, then finds the answer. Key and request are kept as HMACs under a sub-key of the user's data key, and
looked for under every live generation; a generation lives on until what was remembered under it has expired.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from memory import metrics
from memory.errors import DecryptionFailed, IdempotencyConflict
from memory.rls import TenantTransaction
from memory.sealing.columns import open_answer, seal_answer
from memory.sealing.counts import count, counted, nears_seal_limit
from memory.sealing.generations import IDEMPOTENCY_HOURS
from memory.sealing.profile import TenantProfile
from memory.sealing.user_keys import DataKey, Purpose
from memory.security import InvalidTag, associated_data

_FIND = """
SELECT generation, key_mac, body_mac, answer_cipher FROM memory_idempotency
WHERE user_hash = %s AND key_mac = ANY(%s) AND created_at > now() - make_interval(hours => %s)
ORDER BY created_at DESC LIMIT 1"""
_FORGET_EXPIRED = """
DELETE FROM memory_idempotency WHERE user_hash = %s AND created_at <= now() - make_interval(hours => %s)"""
_REMEMBER = """
INSERT INTO memory_idempotency (user_hash, key_mac, body_mac, generation, answer_cipher)
VALUES (%s, %s, %s, %s, %s)"""


@dataclass(frozen=True)
class IdempotentCall:
    """One request under an Idempotency-Key.

    `request` is its canonical form: two requests are the same when these bytes are.
    """

    key: str
    request: bytes

    def recall(self, tx: TenantTransaction, profile: TenantProfile) -> bytes | None:
        """What was remembered under this key within the last 24 hours; None where nothing was.

        Raises StaleKeys when `profile` does not stand, IdempotencyConflict when it was remembered for another request,
        DecryptionFailed when it does not open.
        """
        profile.verify(tx)
        keys = [profile.data_key(generation) for generation in profile.generations]
        row = tx.execute(_FIND, [tx.user_hash, [self._key_mac(key) for key in keys], IDEMPOTENCY_HOURS]).fetchone()
        if row is None:
            return None
        generation, key_mac, stored_mac, answer = row[0], *map(bytes, row[1:])
        key = profile.data_key(generation)
        body_mac = self._body_mac(key)
        if not hmac.compare_digest(stored_mac, body_mac):
            raise IdempotencyConflict()
        try:
            return open_answer(key, key_mac, body_mac, answer)
        except InvalidTag:
            metrics.decrypt_failed.labels("answer_cipher").inc()
            raise DecryptionFailed() from None

    def remember(self, tx: TenantTransaction, profile: TenantProfile, answer: bytes) -> None:
        """Keep `answer` with what `tx` writes; the user's expired ones go.

        `tx` has locked the tenant's row, `recall` found nothing in it, and `profile` stands.
        """
        key = profile.newest
        key_mac, body_mac = self._key_mac(key), self._body_mac(key)
        tx.execute(_FORGET_EXPIRED, [tx.user_hash, IDEMPOTENCY_HOURS])
        sealed = seal_answer(key, key_mac, body_mac, answer)
        tx.execute(_REMEMBER, [tx.user_hash, key_mac, body_mac, key.generation, sealed])
        cursor, state = count(tx, seals=1), tx.state()
        if state is not None and nears_seal_limit(state):
            counted(cursor)

    def _key_mac(self, key: DataKey) -> bytes:
        return hmac.digest(key.subkey(Purpose.IDEMPOTENCY), associated_data("key", self.key), "sha256")

    def _body_mac(self, key: DataKey) -> bytes:
        return hmac.digest(key.subkey(Purpose.IDEMPOTENCY), associated_data("request", self.request), "sha256")
