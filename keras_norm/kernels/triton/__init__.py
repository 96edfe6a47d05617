"""Executors for PyTorch on accelerators of NVIDIA, AMD and Intel, written in Triton.

`kernels` contains the kernels, `tiles` divides an input among programs, `launches` calls the
kernels on tensors, `compiled` makes the launches operations for `torch.compile`, and `functions`
contains the executors with their derivatives. The input and the moments of its sets are kept for
the backward pass. Where a set fits into a tile, each pass reads the input once, otherwise twice. No
function waits for the device, and sums have the same bits in every run.

Triton is imported at the first call. Without Triton, PyTorch's own operations on shifted data are
used. The environment variable `KERAS_NORM_KERNELS=triton` uses the executors on any device: with
`TRITON_INTERPRET=1`, on the CPU in Triton's interpreter.
"""

import importlib
import os
import warnings

from keras_norm.ops import registry

# PyTorch's names of the devices that Triton compiles for; AMD's GPUs are "cuda" too.
DEVICES = ("cuda", "xpu")
OPTIONS = {
    "normalize": ["centered", "mask", "replicas", "exported", "moments"],
    "standardize": ["exported"],
}

_module = None


def _executors():
    """Returns the module of the executors, imported at the first call."""
    global _module
    if _module is None:
        _module = _imported("functions") or _imported("native") or _Declining
    return _module


def _imported(name):
    """Returns a module of executors; None if the installed versions do not support it."""
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except Exception as error:  # versions differ in more than missing symbols
        if getattr(error, "name", None) != "triton":
            warnings.warn(
                f"keras_norm runs without its fast implementation 'triton.{name}', which the "
                f"installed version of PyTorch or Triton does not support ({error!r})",
                stacklevel=2,
            )
        return None


class _Declining:
    """Executors that leave all problems to the plain functions."""

    @staticmethod
    def normalize(*_):
        """Declines."""

    @staticmethod
    def standardize(*_):
        """Declines."""


def normalize(problem, *tensors):
    """Solves a problem of `keras_norm.ops.normalize`."""
    return _executors().normalize(problem, *tensors)


def standardize(problem, *tensors):
    """Solves a problem of `keras_norm.ops.standardize`."""
    return _executors().standardize(problem, *tensors)


def _register():
    devices = list(DEVICES)
    if os.environ.get("KERAS_NORM_KERNELS") == "triton":
        # Requested by name: if Triton is missing, the import of the package says so.
        import keras_norm.kernels.triton.functions  # noqa: F401

        devices.append("cpu")
    for device in devices:
        for function, run in (("normalize", normalize), ("standardize", standardize)):
            registry.register(function, "torch", run, OPTIONS[function], device)


_register()
