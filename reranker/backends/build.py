"""Builds a cross-encoder's form for a CPU (reranker/backends/built_form.py) from its weights; once, at set-up.

1. The model becomes a graph that reads one pair, its last layer computed for [CLS] alone where it is BERT's.
2. For ONNX Runtime its matrices become int8, but for the one that gives the score; where that strays too far from what
   the weights give in float32, without those that make a row narrower; where that does too, all stays float32.
3. Where OpenVINO is installed, the same for it, which reads pairs with padding behind them, in bfloat16, up to the
   product that gives the score: with 8 bits of precision unlike passages had the same one.
4. That product's weights, and what the model gives for a few pairs, go into the manifest.

Figures, and why these bounds: deploy/decisions/0016-the-cross-encoder-by-onnx.md and
0024-the-cross-encoder-by-openvino.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reranker.backends.built_form import (
    FILES,
    ONNX,
    TOKENIZER,
    Manifest,
    Place,
    is_like,
    place_of,
    probed,
)
from reranker.backends.first_token import shorten_last_layer
from reranker.backends.onnx_pairs import OnnxPairs
from reranker.built_forms import digests, make_form, write_manifest
from reranker.config import RerankConfig
from reranker.faults import LoadFailure
from reranker.loader import load_cross_encoder
from reranker.onnx_graph import export, narrowing_products, products_to_one, quantise
from reranker.openvino_graph import MASK, write_graph

# Float32 is float32 but for the order of its sums.
_EXACT = 1e-3
# Added to what a token would be looked at with, and within float16's range.
_NEVER = -10_000.0

_LONG = "The pump in the cellar was serviced in March, and its filter is changed every six months by the same firm. "
_QUESTIONS = ("When was the heat pump serviced?", "where does she live now", "3 °C naïve Grüße")
_TEXTS = (
    "yes",
    "No, last week!",
    "She told me that her sister moved to Lisbon in 2021 and opened a small bakery near the river.",
    "def open_sealed(blob, aad=b''): raise InvalidTag",
    "  Grüße aus Köln: 3 °C, naïve café.  ",
    "what was said and when it was said, and nothing dull; it was good, good, good",
    _LONG,
    _LONG * 3,
    _LONG * 12,
)
PROBES = tuple((question, text) for question in _QUESTIONS for text in _TEXTS)


class Unexportable(LoadFailure):
    """The model has parts that this export does not know; torch can run it all the same."""

    def __init__(self, detail: str):
        super().__init__("no_backend", detail)


def build(config: RerankConfig, models: Path, *, force: bool = False) -> bool:
    """Build the form of the configured model under `models`; False where a good one is there already.

    Raises Unexportable, `LoadFailure` where the weights are not there or not the expected ones.
    """
    place = place_of(config, models)
    return make_form(models, place.form, place.is_good, lambda unfinished: _write(unfinished, place), force=force)


def _write(unfinished: Path, place: Place) -> None:
    import onnxruntime
    import torch

    # All by default but where the model is: the form is the same whatever the service's settings.
    plain = RerankConfig(model=str(place.weights), device="cpu", dtype="float32", expected_sha256=place.weights_sha256)
    whole = load_cross_encoder(plain, attention="eager").model
    logits = whole.predict(list(PROBES), activation_fn=torch.nn.Identity(), batch_size=1, show_progress_bar=False)
    whole.tokenizer.backend_tokenizer.save(str(unfinished / TOKENIZER))
    manifest = Manifest(
        weights_sha256=place.weights_sha256,
        files_sha256=place.files_sha256,
        onnxruntime=onnxruntime.__version__,
        digests={},
        dtype="float32",
        positions=whole.max_seq_length or plain.max_tokens,
        head=[],
        openvino="",
        inputs=[name for name in ("input_ids", "token_type_ids") if name in whole.tokenizer.model_input_names],
        probes=[(question, text, float(logit)) for (question, text), logit in zip(PROBES, logits, strict=True)],
    )
    exact = unfinished / "exact.onnx"
    shorten_last_layer(whole)
    _export(whole, exact, manifest.inputs)
    dtype = _choose(exact, unfinished, manifest)
    exact.unlink(missing_ok=True)
    head = _head_of(whole)
    version = write_graph(unfinished, lambda path: _export_without_head(whole, path, manifest.inputs))
    found = digests(unfinished, FILES)
    write_manifest(unfinished, replace(manifest, dtype=dtype, head=head, openvino=version, digests=found))


def _head_name(whole: Any) -> str | None:
    """The last product to one number, among the model's modules; None in a model that ends otherwise."""
    import torch

    linear = [(name, module) for name, module in whole.model.named_modules() if type(module) is torch.nn.Linear]
    return next((name for name, module in reversed(linear) if module.out_features == 1), None)


def _head_of(whole: Any) -> list[float]:
    """Its weights, and then its bias."""
    if (name := _head_name(whole)) is None:
        return []
    head = whole.model.get_submodule(name)
    return [*head.weight.flatten().tolist(), 0.0 if head.bias is None else head.bias.item()]


def _export_without_head(whole: Any, path: Path, inputs: Sequence[str]) -> None:
    """As `_export` with a mask, of the rows that the last product is taken of."""
    import torch

    if (name := _head_name(whole)) is None:
        raise Unexportable("the model ends otherwise than in one number")
    head = whole.model.get_submodule(name)
    whole.model.set_submodule(name, torch.nn.Identity())
    try:
        _export(whole, path, inputs, MASK)
    finally:
        whole.model.set_submodule(name, head)


def _export(whole: Any, path: Path, inputs: Sequence[str], *more: str) -> None:
    """Write the graph of these inputs, and of `more`."""
    example = whole.tokenizer("a question", "an example of a text", return_tensors="pt")
    try:
        export(_reader(whole, inputs), {name: example[name] for name in (*inputs, *more)}, "logit", path)
    except OSError:
        raise
    except Exception as error:
        raise Unexportable(f"the model has no built form ({type(error).__name__}); torch runs it") from error


def _reader(whole: Any, inputs: Sequence[str]) -> Any:
    """The torch module that a graph is made of: `inputs`, and a mask where the graph has one, to logits or rows."""
    import torch

    is_bert = type(whole.model).__name__ == "BertForSequenceClassification"

    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = whole.model

        def forward(self, *read: torch.Tensor) -> torch.Tensor:
            arguments = dict(zip(inputs, read, strict=False))
            mask = read[-1] if len(read) > len(inputs) else None
            # With a mask goes a model whose head is taken off: then it is a row a pair.
            shape = (-1,) if mask is None else (read[0].shape[0], -1)
            if not is_bert:
                seen = torch.ones_like(read[0]) if mask is None else mask
                return self.model(**arguments, attention_mask=seen).logits.reshape(*shape)
            # Past the mask, which a pair that is alone has no use for: it takes one part in twelve of the time.
            unseen = None if mask is None else (1 - mask[:, None, None, :].to(torch.float32)) * _NEVER
            bert = self.model.bert
            states = bert.encoder(bert.embeddings(**arguments), attention_mask=unseen).last_hidden_state
            return self.model.classifier(bert.pooler(states)).reshape(*shape)

    return Reader()


def _choose(exact: Path, form: Path, manifest: Manifest) -> str:
    """Make ONNX Runtime's graph of `exact`, in the quickest way that keeps the bounds; the dtype."""

    def found(path: Path) -> tuple[np.ndarray, np.ndarray]:
        return probed(OnnxPairs(path, manifest.inputs, manifest.dtype), form, manifest)

    if not np.allclose(*found(exact), atol=_EXACT, rtol=_EXACT):
        raise Unexportable("the model reads its pairs in another way than a cross-encoder, and has no built form")
    head = products_to_one(exact)
    for kept in (head, head + narrowing_products(exact)):
        quantise(exact, form / ONNX, kept)
        if is_like(*found(form / ONNX)):
            return "int8"
    exact.replace(form / ONNX)
    return "float32"
