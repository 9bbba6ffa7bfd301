"""The graph of a built form as OpenVINO runs it, in bfloat16: on processors that multiply it (`has_fast_bfloat16`).

Figures, and what its vectors may meet: deploy/decisions/0022-bfloat16-by-openvino.md.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memory.embedding.built_form import OPENVINO, OPENVINO_WEIGHTS
from reranker.loader import cpu_flags
from reranker.onnx_graph import cpu_threads

# It makes kernels for each length that it meets: 10 to 90 ms and some megabytes each. So lengths go in steps, the rest
# padding behind a mask: fine ones up to the bound, where turns of chats and questions are, coarse ones past it.
_FINE, _FINE_BOUND, _COARSE = 16, 128, 64
# Short texts of one length are read together: what a lone one takes is mostly the way of the weights from memory.
_SHORT_BOUND = 64
_SIZES = (4, 2)
# More were not measured, and of a short text there is little to share.
_THREADS_MAX = 2


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16, by AMX or by AVX-512."""
    return bool(cpu_flags() & {"amx_bf16", "avx512_bf16"})


def openvino() -> Any:
    """The package, imported without the one that reports its use to its makers. Raises ImportError."""
    # It asks for that package where it is installed, which no lock of ours does, and does without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def threads_a_text() -> int:
    """How many compute a text together: two take a third off a long one, and a tenth off a short one."""
    return min(cpu_threads(), _THREADS_MAX)


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


class OpenvinoReader:
    """A `memory.embedding.built_model.Reader`. Raises ImportError without OpenVINO.

    Texts that are read together have the vectors that each has alone, to the bit; where they have not, which `warm`
    looks at, each is read alone.
    """

    runtime = "openvino"
    batch_tokens = 512

    def __init__(self, form: Path, positions: int):
        """`positions` is the most tokens that the graph can read."""
        self._positions = positions
        self._sizes: tuple[int, ...] = ()
        runtime = openvino()
        core, self._tensor = runtime.Core(), runtime.Tensor
        with open(form / OPENVINO_WEIGHTS, "rb") as file:
            # Private to this process, since the package takes nothing that cannot be written; it writes nothing.
            self._weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        weights = runtime.Tensor(np.frombuffer(self._weights, dtype=np.uint8), shared_memory=True)
        graph = core.read_model((form / OPENVINO).read_bytes(), weights)
        self._request = core.compile_model(graph, "CPU", _options(threads_a_text())).create_infer_request()

    def cost(self, tokens: int) -> int:
        return padded(tokens, self._positions)

    def read(self, texts: Sequence[list[int]]) -> list[np.ndarray]:
        by_length: dict[int, list[int]] = {}
        for index, ids in enumerate(texts):
            by_length.setdefault(padded(len(ids), self._positions), []).append(index)
        rows: dict[int, np.ndarray] = {}
        for length, indices in by_length.items():
            while indices:
                sizes = self._sizes if length <= _SHORT_BOUND else ()
                size = next((size for size in sizes if size <= len(indices)), 1)
                together, indices = indices[:size], indices[size:]
                rows |= zip(together, self._run([texts[index] for index in together], length), strict=True)
        return [rows[index] for index in range(len(texts))]

    def warm(self, most_tokens: int) -> None:
        lengths = sorted({padded(tokens, self._positions) for tokens in range(1, most_tokens + 1)})
        for length in lengths:
            self._run([[0] * length], length)
        short = [length for length in lengths if length <= _SHORT_BOUND]
        self._sizes = tuple(size for size in _SIZES if all(self._is_alike(size, length) for length in short))
        # The matrices have been copied in the order that the processor reads them in; of the words, those that are
        # asked for are read again.
        self._weights.madvise(mmap.MADV_DONTNEED)

    def _is_alike(self, size: int, length: int) -> bool:
        """Whether so many texts have together the vectors that each has alone."""
        texts = [[(row + place) % 3 for place in range(length - row)] for row in range(size)]
        alone = [self._run([ids], length)[0] for ids in texts]
        try:
            together = self._run(texts, length)
        except RuntimeError:  # A graph that takes one text only.
            return False
        return np.array_equal(together, alone)

    def _run(self, texts: list[list[int]], length: int) -> np.ndarray:
        read = np.zeros((2, len(texts), length), dtype=np.int64)
        for row, ids in enumerate(texts):
            read[0, row, : len(ids)] = ids
            read[1, row, : len(ids)] = 1
        # As they are, past what copies them into arrays of the package's own. The request does not keep them: both are
        # set before each reading.
        for name, array in zip(("input_ids", "attention_mask"), read, strict=True):
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        self._request.infer(share_outputs=True)
        return self._request.get_output_tensor(0).data.copy()


def padded(tokens: int, positions: int) -> int:
    """The length that a text of so many tokens is read at, of a graph that reads at most `positions`."""
    step = _FINE if tokens <= _FINE_BOUND else _COARSE
    return min(-(-max(tokens, 1) // step) * step, positions)
