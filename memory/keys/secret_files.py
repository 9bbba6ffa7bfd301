"""Reading secrets from the environment, with `_FILE` variants that follow a rotation.

Pure: no Django. `NAME` holds the value itself; `NAME_FILE` names a file that holds it and is
read again when it changes, looked at no more often than every 30 seconds, so that promoting
a key needs no restart. Both at once is refused: one of them would be silently ignored.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

REREAD_SECONDS = 30.0
SECRET_FILE_MAX_BYTES = 64 * 1024
_OTHERS_MAY = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

_file_of: dict[str, str] = {}  # of each secret that was read from a file, by name


class SettingError(ValueError):
    """A setting is missing or has a value that cannot be used; the text names the setting, never the value."""


def exposed_secrets() -> list[str]:
    """Names of the secrets read from files that group or others may read or write, sorted.

    For a warning: a platform may mount secrets so where nobody else has an account.
    """
    exposed = []
    for name, path in _file_of.items():
        try:
            if os.stat(path).st_mode & _OTHERS_MAY:
                exposed.append(name)
        except OSError:  # gone since; the secret keeps its last text
            continue
    return sorted(exposed)


class Secret:
    """One secret by name. `value()` is its text without the trailing newline; '' when it is not set."""

    def __init__(self, name: str, *, reread_seconds: float = REREAD_SECONDS):
        self.name = name
        self._reread_seconds = reread_seconds
        self._lock = threading.Lock()
        self._path: str | None = None
        self._text = ""
        self._next_look = 0.0

    def __repr__(self) -> str:
        return f"Secret({self.name})"

    def value(self) -> str:
        """The present text of the secret.

        Raises SettingError when both forms are set, or the file cannot be read and never was.
        A file that vanishes or is emptied later keeps its last text: losing a mount, or meeting a file
        in the middle of being written, must not lose the keys in use.
        """
        inline, path = os.environ.get(self.name, ""), os.environ.get(f"{self.name}_FILE", "")
        if inline and path:
            raise SettingError(f"set {self.name} or {self.name}_FILE, not both")
        if not path:
            return inline.strip()
        with self._lock:
            now = time.monotonic()
            if path != self._path or now >= self._next_look:
                self._read(path)
                self._next_look = now + self._reread_seconds
            return self._text

    def _read(self, path: str) -> None:
        try:
            raw = Path(path).read_bytes()
            text = raw.decode("utf-8").strip()
            refusal = "is too large" if len(raw) > SECRET_FILE_MAX_BYTES else "" if text else "is empty"
        except (OSError, UnicodeDecodeError) as exc:
            refusal = f"cannot be read ({type(exc).__name__})"
        if not refusal:
            self._path, self._text = path, text
            _file_of[self.name] = path
        elif path != self._path:
            raise SettingError(f"the file of {self.name}_FILE {refusal}")


class ParsedSecrets(Generic[Value]):
    """What the texts of some secrets mean, parsed anew when one of them has changed.

    Texts that do not parse, being in the middle of a change, leave the last good value in use. `complaint` says so in
    the log.
    """

    def __init__(self, secrets: Sequence[Secret], parse: Callable[..., Value], complaint: str):
        self._secrets = secrets
        self._parse = parse
        self._complaint = complaint
        self._last: tuple[list[str], Value] | None = None

    def value(self) -> Value:
        """The present value, or the last good one. Raises SettingError where there never was any."""
        last = self._last
        try:
            texts = [secret.value() for secret in self._secrets]
            if last is None or last[0] != texts:
                self._last = last = (texts, self._parse(*texts))
        except SettingError as exc:
            if last is None:
                raise
            logger.error("%s, what was good last stays in use: %s", self._complaint, exc)
        return last[1]

    def forget(self) -> None:
        """Parse again at the next look."""
        self._last = None
