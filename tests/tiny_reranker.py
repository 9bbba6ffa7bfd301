"""A reranker over a tiny cross-encoder, and texts whose order under it is known.

A file of tests takes the fixtures by `folder, tiny, gate = tiny_reranker.FIXTURES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reranker import RerankConfig, Reranker
from tests.tiny_models import ForwardGate, build_cross_encoder

PLENTY_MS = 30_000
TEXTS = ["plain dull", "good good plain dull", "good plain dull dull", "good good good", "plain plain plain dull"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's."""
    return build_cross_encoder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def tiny(folder: Path) -> Iterator[Reranker]:
    """Without parallel passes, so that each batch of the queue is one forward pass for the gate to see."""
    tiny = Reranker(RerankConfig(model=str(folder), device="cpu", parallel_passes=1))
    assert tiny.warm(60)
    yield tiny
    tiny.close()


@pytest.fixture
def gate(tiny: Reranker, monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwardGate]:
    gate = ForwardGate(tiny, monkeypatch)
    yield gate
    gate.release()


FIXTURES = (folder, tiny, gate)
