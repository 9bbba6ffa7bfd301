"""Point every secret that the environment does not set at its file under `var/secrets`."""

from __future__ import annotations

import os
from pathlib import Path

NAMES = (
    "MEMORY_ENCRYPTION_KEY",
    "MEMORY_TENANT_HMAC_KEY",
    "MEMORY_RECEIPT_KEY",
    "MEMORY_JWT_SECRET",
    "DJANGO_SECRET_KEY",
)


def use_files_in(folder: Path) -> None:
    """Set `<NAME>_FILE` for each secret that has neither form. Development and tests only."""
    if os.environ.get("MEMORY_ENCRYPTION_KEYS") or os.environ.get("MEMORY_ENCRYPTION_KEYS_FILE"):
        names = [name for name in NAMES if name != "MEMORY_ENCRYPTION_KEY"]
    else:
        names = list(NAMES)
    for name in names:
        if not os.environ.get(name) and not os.environ.get(f"{name}_FILE"):
            os.environ[f"{name}_FILE"] = str(folder / name)
