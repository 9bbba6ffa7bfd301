"""Graphs for OpenVINO, which computes them in bfloat16: made from ONNX, and run.

For processors that multiply it (`reranker.loader.has_fast_bfloat16`). Figures, and what may meet what else:
deploy/decisions/0022-bfloat16-by-openvino.md for texts, 0024-the-cross-encoder-by-openvino.md for pairs.
"""

from __future__ import annotations

import errno
import importlib.metadata
import logging
import mmap
import sys
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

# The graph, and its weights in a file beside it.
GRAPH, WEIGHTS = "openvino.xml", "openvino.bin"
MASK = "attention_mask"
# It makes kernels for each length that it meets: 10 to 90 ms and some megabytes each. So lengths go in steps, the rest
# padding behind a mask: fine ones up to the bound, where turns of chats and questions are, coarse ones past it.
_FINE, _FINE_BOUND, _COARSE = 16, 128, 64
# What is short and of one length is read together: what a lone one takes is mostly the way of the weights from memory.
_SIZES = (4, 2)

# What a graph reads of one text or pair: the numbers of each of its inputs but the mask, as many of each.
Row = tuple[Sequence[int] | np.ndarray, ...]


def openvino() -> Any:
    """The package, imported without the one that reports its use to its makers. Raises ImportError."""
    # It asks for that package where it is installed, which no lock of ours does, and does without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def installed_version() -> str:
    """Of the package; empty where none is installed."""
    try:
        return importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return ""


def is_all_there_can_be(files: Container[str], version: str) -> bool:
    """Whether a form of these files, made where `version` was installed, has a graph or would get none now."""
    return GRAPH in files or installed_version() in ("", version)


def write_graph(folder: Path, export: Callable[[Path], None]) -> str:
    """Make GRAPH and WEIGHTS in `folder` of the graph, with a mask, that `export` writes as ONNX to a path it is given.

    They read any number of rows of any length. Returns the version that made them or failed to, empty where none is
    installed. Where it fails there is neither, and the log says so: ONNX Runtime's graph stands. Raises OSError where
    the disk is full.
    """
    version, masked = installed_version(), folder / "masked.onnx"
    if not version:
        return ""
    try:
        export(masked)
        graph = openvino().Core().read_model(masked)
        any_size = openvino().PartialShape([-1, -1])
        graph.reshape({each.any_name: any_size for each in graph.inputs})
        openvino().save_model(graph, folder / GRAPH, compress_to_fp16=True)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        logger.warning("no form of this model for OpenVINO; `build_models --force` tries again", exc_info=True)
        for name in (GRAPH, WEIGHTS):
            (folder / name).unlink(missing_ok=True)
    finally:
        masked.unlink(missing_ok=True)
    return version


class OpenvinoGraph:
    """The graph in the folder `form`, run by one caller at a time. Raises ImportError without OpenVINO.

    `inputs` names what a row has, in its order; `positions` is the most tokens that the graph can read; `threads`
    compute a row together. Rows of one length, up to `together_up_to` tokens, are read together and have then what each
    has alone, to the bit; where they have not, which `warm` looks at, each is read alone.
    """

    def __init__(self, form: Path, inputs: Sequence[str], positions: int, threads: int, together_up_to: int):
        self._inputs = (*inputs, MASK)
        self._positions = positions
        self._together_up_to = together_up_to
        self._sizes: tuple[int, ...] = ()
        runtime = openvino()
        core, self._tensor = runtime.Core(), runtime.Tensor
        with open(form / WEIGHTS, "rb") as file:
            # Private to this process, since the package takes nothing that cannot be written; it writes nothing.
            self._weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        weights = runtime.Tensor(np.frombuffer(self._weights, dtype=np.uint8), shared_memory=True)
        graph = core.read_model((form / GRAPH).read_bytes(), weights)
        compiled = core.compile_model(graph, "CPU", _options(threads))
        self.request: Any = compiled.create_infer_request()
        # What it computes in: float32 where the processor has no use of the hint.
        is_narrow = compiled.get_property("INFERENCE_PRECISION_HINT") == runtime.Type.bf16
        self.dtype = "bfloat16" if is_narrow else "float32"

    def cost(self, tokens: int) -> int:
        """How many are computed for a row of so many, padding included."""
        return padded(tokens, self._positions)

    def read(self, rows: Sequence[Row]) -> list[np.ndarray]:
        """What the graph gives for each row, in their order."""
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_length.setdefault(self.cost(len(row[0])), []).append(index)
        found: dict[int, np.ndarray] = {}
        for length, indices in by_length.items():
            while indices:
                sizes = self._sizes if length <= self._together_up_to else ()
                size = next((size for size in sizes if size <= len(indices)), 1)
                together, indices = indices[:size], indices[size:]
                found |= zip(together, self._run([rows[index] for index in together], length), strict=True)
        return [found[index] for index in range(len(rows))]

    def warm(self, most_tokens: int, *, least_tokens: int = 1) -> None:
        """Make what the first rows of so many tokens would have to wait for."""
        lengths = sorted({self.cost(tokens) for tokens in range(least_tokens, most_tokens + 1)})
        for length in lengths:
            self._run([self._row([0] * length)], length)
        short = [length for length in lengths if length <= self._together_up_to]
        self._sizes = tuple(size for size in _SIZES if all(self._is_alike(size, length) for length in short))
        # The matrices have been copied in the order that the processor reads them in; of the words, those that are
        # asked for are read again.
        self._weights.madvise(mmap.MADV_DONTNEED)

    def _is_alike(self, size: int, length: int) -> bool:
        """Whether so many rows give together what each gives alone."""
        rows = [self._row([(row + place) % 3 for place in range(length - row)]) for row in range(size)]
        alone = [self._run([row], length)[0] for row in rows]
        try:
            together = self._run(rows, length)
        except RuntimeError:  # A graph that takes one row only.
            return False
        return np.array_equal(together, alone)

    def _row(self, ids: list[int]) -> Row:
        """One that says nothing: only the first input is of `ids`."""
        return ids, *([0] * len(ids) for _ in self._inputs[2:])

    def _run(self, rows: Sequence[Row], length: int) -> np.ndarray:
        read = np.zeros((len(self._inputs), len(rows), length), dtype=np.int64)
        for index, row in enumerate(rows):
            tokens = len(row[0])
            read[:-1, index, :tokens] = row
            read[-1, index, :tokens] = 1
        # As they are, past what copies them into arrays of the package's own. The request does not keep them: all are
        # set before each reading.
        for name, array in zip(self._inputs, read, strict=True):
            self.request.set_tensor(name, self._tensor(array, shared_memory=True))
        self.request.infer(share_outputs=True)
        return self.request.get_output_tensor(0).data.copy()


def _options(threads: int) -> dict[str, Any]:
    # Who calls computes: alone without a stream, which keeps it from looking for help, else with the one stream's
    # threads. A stream for each of two threads moves the weights from core to core, at twice the time.
    return {
        "INFERENCE_PRECISION_HINT": "bf16",
        "NUM_STREAMS": 0 if threads == 1 else 1,
        "INFERENCE_NUM_THREADS": threads,
        # Else a stream's threads are bound to the first cores: those of every worker to the same ones.
        "ENABLE_CPU_PINNING": False,
    }


def padded(tokens: int, positions: int) -> int:
    """The length that so many tokens are read at, by a graph that reads at most `positions`."""
    step = _FINE if tokens <= _FINE_BOUND else _COARSE
    return min(-(-max(tokens, 1) // step) * step, positions)
