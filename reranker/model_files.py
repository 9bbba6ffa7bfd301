"""The files of a model on disk: where they lie; the digests of weights, and of tokenizer and configuration.

Of any sentence-transformers model, a cross-encoder or one that embeds. What fails is a `LoadFailure`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from reranker.faults import LoadFailure

# Of what is no weights. Everything else that a load reads is among them.
READ_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja"})
OTHER_RUNTIMES = frozenset({"onnx", "openvino"})
# What is fetched from the hub, and what of that is not.
HUB_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
HUB_FILES_LEFT = [pattern for name in sorted(OTHER_RUNTIMES) for pattern in (f"{name}/*", f"*/{name}/*")]

_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl"})


def model_folder(name: str, *, revision: str | None = None, cache_folder: str | None = None) -> Path:
    """The model's folder: `name` itself, the hub cache's, or fetched from the hub unless HF_HUB_OFFLINE.

    Without a revision what the cache has is taken before the hub's newest.
    """
    try:
        folder = _folder_here(name, revision, cache_folder)
        if folder is not None:
            return folder
        if os.path.isabs(name) or name.startswith("."):
            raise LoadFailure("no_backend", "the model's folder does not exist")

        from huggingface_hub import constants, snapshot_download

        if constants.HF_HUB_OFFLINE:
            raise LoadFailure("no_backend", "the model is not in the hub cache, and HF_HUB_OFFLINE is set")
        return Path(snapshot_download(name, **_of_the_hub(revision, cache_folder)))
    except LoadFailure:
        raise
    except Exception as error:  # the hub's errors are of many families, its network's among them
        raise LoadFailure("no_backend", f"the model cannot be fetched ({type(error).__name__})") from error


def is_at_hand(name: str, *, revision: str | None = None, cache_folder: str | None = None) -> bool:
    """Whether `model_folder` would find it without asking the network."""
    try:
        return _folder_here(name, revision, cache_folder) is not None
    except Exception:  # of a cache that cannot be read: `model_folder` says which
        return False


def _folder_here(name: str, revision: str | None, cache_folder: str | None) -> Path | None:
    """The folder itself, or the hub cache's; None where neither is there."""
    if os.path.isdir(name):
        return Path(name)
    if os.path.isabs(name) or name.startswith("."):
        return None

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True, **_of_the_hub(revision, cache_folder)))
    except LocalEntryNotFoundError:
        return None
    return folder if _weights(folder) else None  # else a download that was cut off


def _of_the_hub(revision: str | None, cache_folder: str | None) -> dict[str, Any]:
    return {
        "revision": revision,
        "cache_dir": cache_folder,
        "allow_patterns": HUB_FILES,
        "ignore_patterns": HUB_FILES_LEFT,
    }


def expected_weights(folder: Path, sha256: str | None, files_sha256: str | None) -> str:
    """The digest of the weights, once they have `sha256`, and the other files `files_sha256`; None takes any."""
    found = weights_digest(folder)
    _require("weights", found, sha256)
    if files_sha256:
        _require("tokenizer and configuration", files_digest(folder), files_sha256)
    return found


def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) of a model's weights: of `model.safetensors` where it is the only file.

    With several (shards, dense layers) it is the SHA-256 of the sorted lines `<sha256>  <relative path>`, as
    `sha256sum` prints them. Raises LoadFailure where there are none, or a folder has pickled weights alone.
    """
    weights = _weights(folder)
    pickled = {path.parent for path in folder.rglob("*") if path.suffix in _PICKLES and not _is_openvinos(path)}
    if pickled - {path.parent for path in weights}:
        raise LoadFailure("no_backend", "the model has weights that are not safetensors")
    if not weights:
        raise LoadFailure("no_backend", "the model has no safetensors weights")
    return sha256_of(weights[0]) if len(weights) == 1 else _digest_of_all(folder, weights)


def files_digest(folder: Path) -> str:
    """SHA-256 (hex) of the sorted lines `<sha256>  <relative path>`, as `sha256sum` prints them.

    Of every file in `folder` with one of READ_SUFFIXES, so that a file which was changed, added or
    taken away gives another digest. Hidden files and other runtimes' folders do not count.
    """
    files = [
        path
        for path in folder.rglob("*")
        if path.suffix in READ_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") or part in OTHER_RUNTIMES for part in path.relative_to(folder).parts)
    ]
    return _digest_of_all(folder, files)


def _weights(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.safetensors") if path.parent.name not in OTHER_RUNTIMES]


def _is_openvinos(path: Path) -> bool:
    """Its weights are no pickles, and no other runtime opens a file of that name."""
    return path.name.startswith("openvino_")


def _digest_of_all(folder: Path, paths: list[Path]) -> str:
    digests = sorted((path.relative_to(folder).as_posix(), sha256_of(path)) for path in paths)
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of one file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require(what: str, found: str, expected: str | None) -> None:
    if expected and found != expected.lower():
        raise LoadFailure("no_backend", f"the model's {what} are not the expected ones: found SHA-256 {found}")
