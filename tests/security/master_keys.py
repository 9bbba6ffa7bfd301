"""Master keys of a test's own, in this process's environment and in that of the processes it starts."""

from __future__ import annotations

import base64

from memory.keys.master_keys import forget_parsed_keys
from memory.sealing.promotion import forget_promoted


def hold(monkeypatch, *, active: str = "", **keys: bytes) -> None:
    """This process holds these master keys from now on; `active` or else the first of them wraps, unless promoted."""
    for name in ("MEMORY_ENCRYPTION_KEY", "MEMORY_ENCRYPTION_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    texts = [f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in keys.items()]
    monkeypatch.setenv("MEMORY_ENCRYPTION_KEYS", ",".join(texts))
    monkeypatch.setenv("MEMORY_ENCRYPTION_ACTIVE_KEY", active or next(iter(keys)))
    forget_parsed_keys()
    forget_promoted()
