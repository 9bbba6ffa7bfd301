"""Graphs for ONNX Runtime: exported from torch, made int8, and run.

torch and onnx are imported by the making, ONNX Runtime by the running, and none of them before it.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reranker.loader import cpu_cores

_OPSET = 17


def export(reader: Any, example: dict[str, Any], output: str, path: Path) -> None:
    """Write the graph of `reader`, a torch module of `example`'s inputs, to `path`.

    Each input is int64[1, length], of any length; the one output is named `output`.
    """
    import torch

    with warnings.catch_warnings(), torch.inference_mode():
        # Of tracing, which is what is wanted: the graph is for any length.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            reader.eval(),
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=[output],
            dynamic_axes={name: {1: "length"} for name in example},
            opset_version=_OPSET,
            dynamo=False,
        )


def narrowing_products(path: Path) -> list[str]:
    """The names of the products with a matrix that makes a row narrower."""
    return [name for name, (rows, columns) in _products(path) if rows > columns]


def products_to_one(path: Path) -> list[str]:
    """The names of the products with a single column: what gives a score."""
    return [name for name, (_, columns) in _products(path) if columns == 1]


def _products(path: Path) -> Iterable[tuple[str, tuple[int, int]]]:
    import onnx

    graph = onnx.load(str(path)).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm") and len(shape := shapes.get(node.input[1], ())) == 2:
            is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            yield node.name, shape[::-1] if is_transposed else shape


def quantise(exact: Path, path: Path, kept: list[str]) -> None:
    """Write `exact` to `path` with its matrices in int8, but for the nodes of the names `kept`.

    Each column has a scale of its own, activations one as they come. Seven of the eight bits are used: sums of two
    products then fit into 16 bits, and processors with and without VNNI compute the same.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    # It advises a pre-processing that is for models with other inputs.
    root.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            exact, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8, nodes_to_exclude=kept
        )
    finally:
        root.setLevel(level)


def session(path: Path, threads: int) -> Any:
    """An `onnxruntime.InferenceSession` whose threads do not spin while they wait."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # One warning a model about initialisers nobody uses, and nothing that an operator could do.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cpu_threads() -> int:
    """What OMP_NUM_THREADS allows, as for torch; else one a core."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cpu_cores(), int(text))) if text.isdecimal() else cpu_cores()
