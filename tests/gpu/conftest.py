"""Checks of a machine with an NVIDIA GPU: `make gpu-test`. Without one they are skipped, and say so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reranker.loader import has_gpu
from tests.tiny_models import build_wide_vocabulary_cross_encoder

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if FOLDER in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
    if ours and not has_gpu(None):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason="NOT CHECKED: there is no NVIDIA GPU here that torch can use"))


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory) -> Path:
    """GPU_TEST_MODEL, or one of the default model's shape with weights of no meaning."""
    if named := os.environ.get("GPU_TEST_MODEL"):
        return Path(named)
    return build_wide_vocabulary_cross_encoder(tmp_path_factory.mktemp("cross") / "model")
