"""Builds a model's form for a CPU (memory/embedding/built_form.py) from its weights; once, at set-up.

1. Transformer, the model's own pooling and the scaling to unit length become one graph, which reads one text; for ONNX
   Runtime in float32.
2. Where OpenVINO is installed, the same for it, which reads a text with padding behind it. Its weights are kept in
   float16, half the size and nearer to float32 than the bfloat16 that it computes in.
3. The vectors of a few texts, as torch gives them, go into the manifest.

No int8: every form of it that was tried cost answers. Figures and what may meet what:
deploy/decisions/0014-onnx-in-float32.md and 0022-bfloat16-by-openvino.md.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from memory.embedding.built_form import (
    ONNX,
    Manifest,
    digests,
    form_folder,
    read_manifest,
    write_manifest,
)
from memory.embedding.model import EmbeddingModel, passage_prompt, positions
from memory.errors import ModelUnavailable
from reranker import openvino_graph
from reranker.built_forms import make_form
from reranker.model_files import expected_weights, files_digest
from reranker.onnx_graph import export
from reranker.openvino_graph import MASK, write_graph

_LONG = "The pump in the cellar was serviced in March, and its filter is changed every six months by the same firm. "
PROBES = (
    "yes",
    "No, last week!",
    "When was the heat pump serviced?",
    "  Grüße aus Köln: 3 °C, naïve café.  ",
    "def open_sealed(blob, aad=b''): raise InvalidTag",
    "She told me that her sister moved to Lisbon in 2021 and opened a small bakery near the river.",
    _LONG * 5,
    _LONG * 12,
)


class Unexportable(ModelUnavailable):
    """The model has parts that this export does not know; torch can run it all the same."""


def build(folder: Path, models: Path, *, sha256: str | None, files_sha256: str | None, force: bool = False) -> bool:
    """Build the form of the model in `folder` under `models`; False where a good one is there already.

    One that is damaged is built anew; else as `reranker.built_forms.make_form`. Raises Unexportable, `LoadFailure`
    where a digest is not the expected one or `models` cannot be written.
    """
    weights, files = expected_weights(folder, sha256, files_sha256), files_digest(folder)
    target = form_folder(models, weights)

    def make(unfinished: Path) -> None:
        model = EmbeddingModel(folder, sha256, files_sha256, 1 << 20, "cpu", "float32", attention="eager")
        _require_exportable(model.sentence_transformer)
        _write(unfinished, model, files)

    return make_form(models, target, lambda: _is_good(target, weights, files), make, force=force)


def is_built(folder: Path, models: Path, sha256: str | None, files_sha256: str | None) -> bool:
    """Whether a good form stands there, by its digests and those of the model in `folder`; imports no model library.

    Raises `LoadFailure` where a digest is not the expected one.
    """
    weights = expected_weights(folder, sha256, files_sha256)
    return _is_good(form_folder(models, weights), weights, files_digest(folder))


def _is_good(target: Path, weights_sha256: str, files_sha256: str) -> bool:
    try:
        manifest = read_manifest(target, weights_sha256, files_sha256)
    except ModelUnavailable:
        return False
    return manifest is not None and openvino_graph.is_all_there_can_be(manifest.digests, manifest.openvino)


def _write(folder: Path, model: EmbeddingModel, files_sha256: str) -> None:
    import onnxruntime

    whole = model.sentence_transformer
    whole.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    _export(whole, folder / ONNX)
    version = write_graph(folder, partial(_export_masked, whole))
    vectors = whole.encode(list(PROBES), batch_size=1, normalize_embeddings=True, prompt="", show_progress_bar=False)
    write_manifest(
        folder,
        Manifest(
            weights_sha256=model.weights_sha256,
            files_sha256=files_sha256,
            onnxruntime=onnxruntime.__version__,
            openvino=version,
            dimension=model.dimension,
            positions=positions(whole),
            prompts={"query": whole.prompts.get("query") or "", "passage": passage_prompt(whole.prompts)},
            digests=digests(folder),
            probes=[(text, [float(x) for x in vector]) for text, vector in zip(PROBES, vectors, strict=True)],
        ),
    )


def _require_exportable(whole: Any) -> None:
    """Raises Unexportable for anything but a transformer, mean or first-token pooling, and scaling to unit length."""
    kinds = [type(module).__name__ for module in whole]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise Unexportable(f"A model of {', '.join(kinds)} has no built form; it runs with MEMORY_EMBED_BACKEND=torch.")
    if _pooling(whole) is None:
        raise Unexportable("A model with this pooling has no built form; it runs with MEMORY_EMBED_BACKEND=torch.")


def _pooling(whole: Any) -> str | None:
    """`mean` or `cls`; None for any other, and where a prompt is left out of the mean."""
    config = whole[1].get_config_dict()
    leaves_out_prompt = any(whole.prompts.values()) and not config.get("include_prompt", True)
    return config["pooling_mode"] if config["pooling_mode"] in ("mean", "cls") and not leaves_out_prompt else None


def _export(whole: Any, path: Path) -> None:
    export(_reader(whole), {"input_ids": _example(whole)}, "embedding", path)


def _export_masked(whole: Any, path: Path) -> None:
    import torch

    ids = _example(whole)
    export(_reader(whole), {"input_ids": ids, MASK: torch.ones_like(ids)}, "embedding", path)


def _reader(whole: Any) -> Any:
    """The torch module that a graph is made of: tokens to a unit vector, past the mask where the graph has none."""
    import torch

    transformer, pooling = whole[0].auto_model, _pooling(whole)

    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            states = self.transformer(input_ids=input_ids, attention_mask=mask).last_hidden_state
            if pooling == "cls":
                pooled = states[:, 0]
            elif attention_mask is None:
                pooled = states.mean(1)
            else:
                is_text = attention_mask.unsqueeze(-1).to(states.dtype)
                pooled = (states * is_text).sum(1) / is_text.sum(1)
            return torch.nn.functional.normalize(pooled, dim=1)

    return Reader()


def _example(whole: Any) -> Any:
    import torch

    return torch.tensor([whole.tokenizer("an example of a text")["input_ids"]])
