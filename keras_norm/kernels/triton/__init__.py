"""Executors for PyTorch on accelerators, written in Triton: NVIDIA's, AMD's and Intel's.

`kernels` has the kernels, `tiles` says how an input is divided among programs, `launches` has the
kernels as functions on tensors, `compiled` these as operations for `torch.compile`, and
`functions` the executors with their derivatives. Kept for the backward pass are the input and the
moments of its sets. Where a set fits into a tile, the input is read once forward and once backward,
else twice each. Nothing waits for the device, and sums have the same bits in every run.

Triton is imported at the first call. Where it is missing, PyTorch's own operations on shifted data
answer. The environment variable `KERAS_NORM_KERNELS=triton` takes the executors for tensors on any
device: with `TRITON_INTERPRET=1` that is the CPU, in Triton's interpreter.
"""

import os
import warnings

from keras_norm.ops import registry

# The kinds of devices that Triton compiles for, by PyTorch's names: AMD's cards are "cuda" too.
DEVICES = ("cuda", "xpu")
OPTIONS = {"normalize": ["centered", "mask", "replicas", "exported", "moments"], "standardize": []}

_module = None


def _executors():
    """Returns the module of the executors, imported at the first call."""
    global _module
    if _module is None:
        try:
            from keras_norm.kernels.triton import functions

            _module = functions
        except (ImportError, AttributeError) as error:
            if error.name != "triton":
                warnings.warn(
                    "keras_norm runs without its Triton kernels, as the installed version of a "
                    f"framework lacks what they use: {error}",
                    stacklevel=2,
                )
            from keras_norm.kernels.triton import native

            _module = native
    return _module


def normalize(problem, *tensors):
    """Solves a problem of `keras_norm.ops.normalize`."""
    return _executors().normalize(problem, *tensors)


def standardize(problem, *tensors):
    """Solves a problem of `keras_norm.ops.standardize`."""
    return _executors().standardize(problem, *tensors)


def _register():
    devices = list(DEVICES)
    if os.environ.get("KERAS_NORM_KERNELS") == "triton":
        # Asked for by name: that it is missing is said at the import.
        import keras_norm.kernels.triton.functions  # noqa: F401

        devices.append("cpu")
    for device in devices:
        for function, run in (("normalize", normalize), ("standardize", standardize)):
            registry.register(function, "torch", run, OPTIONS[function], device)


_register()
