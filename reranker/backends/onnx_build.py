"""Builds a cross-encoder's form for ONNX Runtime (reranker/backends/onnx_form.py) from its weights; once, at set-up.

1. The model becomes a graph that reads one pair, its last layer computed for [CLS] alone where it is BERT's.
2. Its matrices become int8, but for the one that gives the score; where that strays too far from what the weights
   give in float32, without those that make a row narrower; where that does too, all stays float32.
3. What the weights give for a few pairs goes into the manifest.

Figures, and why these bounds: deploy/decisions/0016-the-cross-encoder-by-onnx.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reranker.backends.first_token import shorten_last_layer
from reranker.backends.onnx_form import FILES, GRAPH, TOKENIZER, Graph, Manifest, Place, is_like, place_of, probed
from reranker.built_forms import digests, make_form, write_manifest
from reranker.config import RerankConfig
from reranker.faults import LoadFailure
from reranker.loader import load_cross_encoder
from reranker.onnx_graph import export, narrowing_products, products_to_one, quantise

# Float32 is float32 but for the order of its sums.
_EXACT = 1e-3

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
        inputs=[name for name in ("input_ids", "token_type_ids") if name in whole.tokenizer.model_input_names],
        probes=[(question, text, float(logit)) for (question, text), logit in zip(PROBES, logits, strict=True)],
    )
    exact = unfinished / "exact.onnx"
    _export(whole, exact, manifest.inputs)
    dtype = _choose(exact, unfinished / GRAPH, manifest)
    exact.unlink(missing_ok=True)
    write_manifest(unfinished, replace(manifest, dtype=dtype, digests=digests(unfinished, FILES)))


def _export(whole: Any, path: Path, inputs: Sequence[str]) -> None:
    import torch

    shorten_last_layer(whole)
    is_bert = type(whole.model).__name__ == "BertForSequenceClassification"

    class Reader(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = whole.model

        def forward(self, *read: torch.Tensor) -> torch.Tensor:
            arguments = dict(zip(inputs, read, strict=True))
            if not is_bert:
                return self.model(**arguments, attention_mask=torch.ones_like(read[0])).logits.reshape(-1)
            # Past the mask, which a pair that is alone has no use for: it takes one part in twelve of the time.
            bert = self.model.bert
            states = bert.encoder(bert.embeddings(**arguments)).last_hidden_state
            return self.model.classifier(bert.pooler(states)).reshape(-1)

    example = whole.tokenizer("a question", "an example of a text", return_tensors="pt")
    try:
        export(Reader(), {name: example[name] for name in inputs}, "logit", path)
    except OSError:
        raise
    except Exception as error:
        raise Unexportable(f"the model has no built form ({type(error).__name__}); torch runs it") from error


def _choose(exact: Path, path: Path, manifest: Manifest) -> str:
    """Make `path` of `exact`, in the quickest way that keeps the bounds; the dtype."""
    if not np.allclose(*probed(Graph(exact, manifest), manifest), atol=_EXACT, rtol=_EXACT):
        raise Unexportable("the model reads its pairs in another way than a cross-encoder, and has no built form")
    head = products_to_one(exact)
    for kept in (head, head + narrowing_products(exact)):
        quantise(exact, path, kept)
        if is_like(*probed(Graph(path, manifest), manifest)):
            return "int8"
    exact.replace(path)
    return "float32"
