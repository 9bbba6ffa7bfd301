"""Answers that are remembered under Idempotency-Keys, copied for a user's new name.

The MACs of key and request hang on his data key alone, which stays the same; only the answer is sealed to his name.
"""

from __future__ import annotations

from memory.errors import DecryptionFailed
from memory.moving.move import Move, MoveLost
from memory.rls import tenant_transaction
from memory.sealing.columns import open_answer, seal_answer
from memory.sealing.counts import count, count_old_seals, counted
from memory.sealing.generations import IDEMPOTENCY_HOURS
from memory.sealing.profile import TenantProfile
from memory.security import InvalidTag

_KNOWN = "SELECT key_mac FROM memory_idempotency WHERE user_hash = %s"
_MISSING = """
SELECT key_mac, body_mac, generation, answer_cipher, created_at FROM memory_idempotency
WHERE user_hash = %s AND created_at > now() - make_interval(hours => %s) AND NOT key_mac = ANY(%s)"""
_INSERT = """
INSERT INTO memory_idempotency (user_hash, key_mac, body_mac, generation, answer_cipher, created_at)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""


def copy_answers(move: Move, profile: TenantProfile) -> int:
    """Copy those that are not copied yet and have not expired; how many.

    Each is sealed under the generation that it names, whose MACs it is found by. Raises DecryptionFailed, StaleKeys,
    MoveLost, KeyUnavailable.
    """
    name = move.target_hash
    with tenant_transaction(name, reads_state=False) as tx:
        known = [bytes(mac) for (mac,) in tx.execute(_KNOWN, [name]).fetchall()]
    with tenant_transaction(move.user_hash) as tx:
        missing = tx.execute(_MISSING, [move.user_hash, IDEMPOTENCY_HOURS, known])
        tx.end()
        profile.verify(tx)
        rows = [row for row in missing.fetchall() if row[2] in profile.generations]
    sealed = []
    for key_mac, body_mac, generation, answer, created_at in rows:
        key = profile.data_key(generation)
        macs = bytes(key_mac), bytes(body_mac)
        try:
            plain = open_answer(key, *macs, bytes(answer))
        except InvalidTag:
            raise DecryptionFailed() from None
        sealed.append([name, *macs, generation, seal_answer(key.under(name), *macs, plain), created_at])
    if sealed:
        with tenant_transaction(name, write=True) as tx:
            state = tx.state(even_inactive=True)
            if state is None or state.state != "moving":
                raise MoveLost()
            for row in sealed:
                tx.execute(_INSERT, row)
            of_newest = sum(row[3] == profile.generation for row in sealed)
            counted(count(tx, seals=of_newest))
            for generation in {row[3] for row in sealed} - {profile.generation}:
                count_old_seals(tx, generation, sum(row[3] == generation for row in sealed))
    return len(sealed)
