"""The files of a model on disk: its weights; and tokenizer, vocabulary, configuration."""

from __future__ import annotations

import hashlib
from pathlib import Path

# Of what is no weights. Everything else that a load reads is among them.
READ_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
OTHER_RUNTIMES = frozenset({"onnx", "openvino"})
# What is fetched from the hub, and what of that is not.
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
HUB_FILES_LEFT = [pattern for name in sorted(OTHER_RUNTIMES) for pattern in (f"{name}/*", f"*/{name}/*")]


def weights_digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of every file of safetensors weights in `folder`, by relative path, in the order of paths."""
    weights = (path for path in folder.rglob("*.safetensors") if path.parent.name not in OTHER_RUNTIMES)
    digests = {}
    for path in sorted(weights):
        with open(path, "rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def files_digest(folder: Path) -> str:
    """SHA-256 (hex) of the sorted lines `<sha256>  <relative path>`, as `sha256sum` prints them.

    Of every file in `folder` with one of READ_SUFFIXES, so that a file which was changed, added or
    taken away gives another digest. Hidden files and other runtimes' folders do not count.
    """
    lines = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        left_out = any(part.startswith(".") or part in OTHER_RUNTIMES for part in name.parts)
        if path.suffix in READ_SUFFIXES and path.is_file() and not left_out:
            lines.append((name.as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()))
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in sorted(lines)).encode()).hexdigest()
