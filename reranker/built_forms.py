"""Forms of a model that are read in place of its weights on a CPU: made once, read by every worker.

    <models folder>/<weights' SHA-256, first 16 digits>-<recipe>/
        manifest.json, and the files whose digests it has

A form is made from weights whose digest was checked. The manifest tells a damaged form and one of other weights from
a good one. It is no seal: who may write the folder may write it too. What fails is a `LoadFailure`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from reranker.faults import LoadFailure
from reranker.model_files import sha256_of

MANIFEST = "manifest.json"
# Of renameat2(2), which Python does not have.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True, kw_only=True)
class FormManifest:
    """What is known of every form: what it was made from and with, and the SHA-256 (hex) of each of its files."""

    weights_sha256: str
    files_sha256: str
    onnxruntime: str
    digests: dict[str, str]


M = TypeVar("M", bound=FormManifest)


def form_folder(models: Path, weights_sha256: str, recipe: str) -> Path:
    """Where the form of these weights is, or would be. Another recipe is another folder, and no form of this one."""
    return models / f"{weights_sha256[:16]}-{recipe}"


def write_manifest(folder: Path, manifest: FormManifest) -> None:
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest)))


def read_manifest(kind: type[M], folder: Path, files: Sequence[str], weights: str, files_sha256: str) -> M | None:
    """The manifest of the form in `folder`, of weights and files of these digests; None where there is no form.

    Raises LoadFailure where it is of others, or one of its `files` is not as it was.
    """
    try:
        manifest = kind(**json.loads((folder / MANIFEST).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise _unusable("its manifest cannot be read") from None
    if (manifest.weights_sha256, manifest.files_sha256) != (weights, files_sha256):
        raise _unusable("it is of other weights or another tokenizer")
    if manifest.digests != digests(folder, files):
        raise _unusable("its files have changed since")
    return manifest


def digests(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """SHA-256 (hex) of each of `files` that is there."""
    return {name: sha256_of(folder / name) for name in files if (folder / name).is_file()}


def make_form(
    models: Path, target: Path, is_good: Callable[[], bool], make: Callable[[Path], None], *, force: bool = False
) -> bool:
    """Have `make` fill a folder, which becomes `target` under `models`; False where a good one is there already.

    A good one needs no right to write. Two at once: the second waits for the first. What was there before stands until
    the new one takes its place, so that a worker that starts meanwhile finds one or the other.
    """
    if not force and is_good():
        return False
    try:
        models.mkdir(parents=True, exist_ok=True)
        with _alone(models / ".lock"):
            if not force and is_good():
                return False
            _make(models, target, make)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise LoadFailure("no_backend", f"no built form can be made in {models} ({why})") from error
    return True


def _make(models: Path, target: Path, make: Callable[[Path], None]) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=models))
    try:
        make(unfinished)
        unfinished.chmod(0o755)
        if os.path.lexists(target):
            _exchange(unfinished, target)
        else:
            os.rename(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # after an exchange, what was there before


def _exchange(new: Path, old: Path) -> None:
    """Each gets the other's name: at once, or on a file system that cannot, in three steps."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE) == 0:
            return
        if (code := ctypes.get_errno()) not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(code, os.strerror(code))
    aside = new.with_name(f"{new.name}-before")
    os.rename(old, aside)
    os.rename(new, old)
    os.rename(aside, new)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    # Not to write: in a folder that others may write to, the name could lead to any file of ours.
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unusable(why: str) -> LoadFailure:
    return LoadFailure("no_backend", f"the model's built form cannot be used: {why}")
