"""A model's built form: the files that ONNX Runtime reads in place of the weights, and the manifest that vouches.

    <models folder>/<weights' SHA-256, first 16 digits>-r<RECIPE>/
        manifest.json   tokenizer.json   model.onnx

`memory/embedding/build.py` makes it once, from weights whose digest was checked; a worker only reads it. The manifest
tells a damaged form and one of other weights from a good one. It is no seal: who may write the folder may write it too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from memory.errors import ModelUnavailable
from reranker.model_files import sha256_of

# Of the way a form is made. Another number is another folder, so an old form is never taken for a new one.
RECIPE = 2
MANIFEST = "manifest.json"
COMMAND = "python manage.py build_models"
FILES = ("tokenizer.json", "model.onnx")


@dataclass(frozen=True)
class Manifest:
    """What is known of a built form.

    `positions` is the most tokens that the model can take, with special ones. `prompts` are put before a text, by task.
    `probes` are texts with the unit vectors that the weights give in float32.
    """

    weights_sha256: str
    files_sha256: str
    onnxruntime: str
    dimension: int
    positions: int
    prompts: dict[str, str]
    digests: dict[str, str]
    probes: list[tuple[str, list[float]]]


def form_folder(models: Path, weights_sha256: str) -> Path:
    """Where the built form of these weights is, or would be."""
    return models / f"{weights_sha256[:16]}-r{RECIPE}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest)))


def read_manifest(folder: Path, weights_sha256: str, files_sha256: str) -> Manifest | None:
    """The manifest of the form in `folder`, every file of which has its digest; None where there is no form.

    Raises ModelUnavailable where it is of other weights or tokenizer, or damaged.
    """
    try:
        manifest = Manifest(**json.loads((folder / MANIFEST).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        raise _unusable("its manifest cannot be read") from None
    if (manifest.weights_sha256, manifest.files_sha256) != (weights_sha256, files_sha256):
        raise _unusable("it is of other weights or another tokenizer")
    if manifest.digests != digests(folder):
        raise _unusable("its files have changed since")
    return manifest


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each of FILES that is there."""
    return {name: sha256_of(folder / name) for name in FILES if (folder / name).is_file()}


def _unusable(why: str) -> ModelUnavailable:
    return ModelUnavailable(f"The embedding model's built form cannot be used: {why}. Run `{COMMAND}`.")
