"""What a deployment's secrets must be: hard to guess, and each a secret of its own."""

from __future__ import annotations

import base64
import binascii
from itertools import combinations

from memory.keys.secret_strength import weak_secret_reason
from r1site.settings import env


def refuse_weak(secrets: dict[str, str]) -> None:
    """Raise ImproperlyConfigured, by name, for a text that is too easy to guess. '' counts as not set."""
    for name, text in secrets.items():
        if text and (reason := weak_secret_reason(text.encode())):
            env.refuse(f"{name}: {reason}", None)


def refuse_equal(secrets: dict[str, str | bytes]) -> None:
    """Raise ImproperlyConfigured, by names, where two are the same, as text or as what its base64 holds.

    One value for two purposes would let whoever may know the one do the other.
    """
    forms = {name: _forms(secret) for name, secret in secrets.items() if secret}
    for (name, ours), (other, theirs) in combinations(forms.items(), 2):
        if ours & theirs:
            env.refuse(f"{name} and {other} have the same value; each needs one of its own", None)


def _forms(secret: str | bytes) -> set[bytes]:
    if isinstance(secret, bytes):
        return {secret}
    raw = secret.encode()
    try:
        return {raw, base64.b64decode(raw.translate(bytes.maketrans(b"-_", b"+/")), validate=True)}
    except (binascii.Error, ValueError):
        return {raw}
