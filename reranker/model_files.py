"""The files of a model on disk, apart from its weights: tokenizer, vocabulary, configuration."""

from __future__ import annotations

import hashlib
from pathlib import Path

# What is fetched from the hub beside the weights. Everything a load reads is among them.
READ_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
OTHER_RUNTIMES = frozenset({"onnx", "openvino"})


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
