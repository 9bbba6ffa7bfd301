"""Which name a user has in the database, while users are renamed from one tenant HMAC key to another.

Mostly there is one key, and nothing to ask. With two, whoever is asked for is looked for under the new name and then
under the old one; who is under neither is new, and is named by the key that the database says. A user has one name at
any moment: the one transaction that switches him makes the new one his.
"""

from __future__ import annotations

from memory.embedding.spaces import forget_spaces, naming_key
from memory.keys.master_keys import tenant_hmac_keys
from memory.rls import tenant_transaction
from memory.security import hmac_user

# Names that are final: nobody goes back to the name before. Forgotten together when there are so many.
SETTLED_MAX = 100_000

# A user's row is served in these states; elsewhere it is a copy that is being made, or a link to where he went.
_SERVED = ("active", "erasing")
_STATE = "SELECT state FROM memory_tenants WHERE user_hash = %s"
_settled: set[str] = set()


def are_being_renamed() -> bool:
    """Whether this process knows two tenant HMAC keys, so that a user may have either name."""
    return len(tenant_hmac_keys()) > 1


def user_hash_of(user_id: str) -> str:
    """The user's name, 64 hex digits. Asks the database only while users are renamed, and once of who has been.

    Nobody needs to be bound. Raises InvalidUserId, SpaceMismatch, and database errors while users are renamed.
    """
    if not are_being_renamed():
        return hmac_user(user_id)
    first = naming_key()
    new = hmac_user(user_id, first)
    if new in _settled:
        return new
    state = _state(new)
    if state in _SERVED:
        _settle(new)
        return new
    old = next(hmac_user(user_id, key) for key in tenant_hmac_keys() if key != first)
    # `moved`: this process does not know yet that new users are named by the other key. Who is under neither name is
    # new, or was renamed between the two looks.
    return old if _state(old) in _SERVED or state == "moved" else new


def user_hash_anew(user_id: str) -> str:
    """As `user_hash_of`, with nothing of what was known: for who was refused under the name that was his."""
    forget_spaces()
    _settled.difference_update(hmac_user(user_id, key) for key in tenant_hmac_keys())
    return user_hash_of(user_id)


def forget_names() -> None:
    """Ask for every name again. For tests, which change the keys of one process."""
    _settled.clear()


def _state(user_hash: str) -> str | None:
    with tenant_transaction(user_hash, reads_state=False) as tx:
        row = tx.execute(_STATE, [user_hash]).fetchone()
    return None if row is None else row[0]


def _settle(user_hash: str) -> None:
    if len(_settled) >= SETTLED_MAX:
        _settled.clear()
    _settled.add(user_hash)
