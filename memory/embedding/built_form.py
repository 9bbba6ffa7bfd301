"""The embedding model's built form (reranker/built_forms.py), with what is read from it besides the graph.

`memory/embedding/build.py` makes it once, from weights whose digest was checked; a worker only reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memory.errors import ModelUnavailable
from reranker import built_forms, openvino_graph
from reranker.built_forms import MANIFEST, FormManifest, write_manifest
from reranker.faults import LoadFailure

__all__ = ["COMMAND", "FILES", "MANIFEST", "Manifest", "digests", "form_folder", "read_manifest", "write_manifest"]

# Of the way a form is made. Another one is another folder, so an old form is never taken for a new one.
RECIPE = "r4"
COMMAND = "python manage.py build_models"
# The graph for ONNX Runtime, and where OpenVINO is installed for that, with its weights in a file beside it.
ONNX, OPENVINO = "model.onnx", openvino_graph.GRAPH
FILES = ("tokenizer.json", ONNX, OPENVINO, openvino_graph.WEIGHTS)


@dataclass(frozen=True, kw_only=True)
class Manifest(FormManifest):
    """What is known of a built form.

    `positions` is the most tokens that the model can take, with special ones. `prompts` are put before a text, by task.
    `probes` are texts with the unit vectors that the weights give in float32. `openvino` is the version that made its
    graph or failed to; empty where none was installed.
    """

    dimension: int
    positions: int
    prompts: dict[str, str]
    probes: list[tuple[str, list[float]]]
    openvino: str = ""


def form_folder(models: Path, weights_sha256: str) -> Path:
    """Where the built form of these weights is, or would be."""
    return built_forms.form_folder(models, weights_sha256, RECIPE)


def read_manifest(folder: Path, weights_sha256: str, files_sha256: str) -> Manifest | None:
    """The manifest of the form in `folder`, every file of which has its digest; None where there is no form.

    Raises ModelUnavailable where it is of other weights or tokenizer, or damaged.
    """
    try:
        return built_forms.read_manifest(Manifest, folder, FILES, weights_sha256, files_sha256)
    except LoadFailure as failure:
        raise ModelUnavailable(f"Of the embedding model, {failure.detail}. Run `{COMMAND}`.") from None


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each of FILES that is there."""
    return built_forms.digests(folder, FILES)
