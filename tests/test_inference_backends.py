"""NumPy and OpenVINO as Keras backends: inference works, and training raises a clear error."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="does not depend on the backend: once is enough"
)
@pytest.mark.parametrize("backend", ["numpy", "openvino"])
def test_inference(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-m", "tests.inference"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"inference works on {backend}\n")
