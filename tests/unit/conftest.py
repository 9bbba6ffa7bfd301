"""What tests of a model's built form share; a test's module has the `models` folder that its forms are in."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(params=["onnx", "openvino"])
def runtime(request) -> str:
    """Each that runs a built form; skipped where it is not installed."""
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    return request.param


@pytest.fixture
def copied(models, tmp_path) -> Path:
    """A copy of the forms, for tests that damage them."""
    return Path(shutil.copytree(models, tmp_path / "models"))
