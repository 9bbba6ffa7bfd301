"""The files that hold master keys, written as an operator writes them."""

from __future__ import annotations

import base64
import os
from pathlib import Path


class KeyFiles:
    """`settings` name the two files; `first` is the id of a new key in them, the active one."""

    def __init__(self, folder: Path, first: str):
        self._keys = {first: os.urandom(32)}
        self._keys_file, self._active_file = folder / "keys", folder / "active"
        self.settings = {
            "MEMORY_ENCRYPTION_KEYS_FILE": str(self._keys_file),
            "MEMORY_ENCRYPTION_ACTIVE_KEY_FILE": str(self._active_file),
        }
        self._write(first)

    def add(self, key_id: str) -> None:
        """A new key beside the others; the active one stays."""
        self._keys[key_id] = os.urandom(32)
        self._write(self._active_file.read_text())

    def activate(self, key_id: str) -> None:
        self._write(key_id)

    def forget(self, key_id: str, *, new: str = "") -> None:
        """Its bytes are gone; with `new`, a new key is there instead and active."""
        del self._keys[key_id]
        if new:
            self._keys[new] = os.urandom(32)
        self._write(new or self._active_file.read_text())

    def _write(self, active: str) -> None:
        self._active_file.write_text(active)
        texts = (f"{key_id}:{base64.b64encode(key).decode()}" for key_id, key in self._keys.items())
        beside = self._keys_file.with_suffix(".new")
        beside.touch(0o600)
        beside.write_text(",".join(texts))
        beside.replace(self._keys_file)
