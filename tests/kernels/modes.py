"""Values and gradients of a function of tensors, in every way that a backend runs one."""

import contextlib

import keras
import numpy as np

BACKEND = keras.backend.backend()
MODES = {
    "jax": ("eager", "jit"),
    "tensorflow": ("eager", "graph", "xla"),
    "torch": ("eager", "large", "compiled"),
}[BACKEND]


def vjp(function, arrays, dtypes, upstream, mode, open_sizes=False):
    """Returns the output and the gradients to all arrays, as float64 NumPy arrays.

    Args:
        function: From tensors to one tensor of the dtype of the first.
        arrays: NumPy arrays.
        dtypes: What they are converted to.
        upstream: NumPy array, the gradient of the output.
        mode: One of `MODES`.
        open_sizes: Whether a compiled function is to know the sizes of the channels only, where
            the backend has sizes that are unknown while it traces.
    """
    with _double_precision():
        tensors = [
            keras.ops.convert_to_tensor(a, dtype) for a, dtype in zip(arrays, dtypes, strict=True)
        ]
        upstream = keras.ops.convert_to_tensor(upstream, dtypes[0])
        found = _vjp(function, tensors, upstream, mode, open_sizes)
        dtype = keras.backend.standardize_dtype(found[0].dtype)
        assert dtype == dtypes[0]
        return [
            keras.ops.convert_to_numpy(
                v if dtypes[0] == "float64" else keras.ops.cast(v, "float32")
            ).astype("float64")
            for v in found
        ]


if BACKEND == "jax":
    import jax

    def _double_precision():
        return jax.enable_x64(True)

    def _vjp(function, tensors, upstream, mode, open_sizes):
        def both(tensors, upstream):
            output, pullback = jax.vjp(function, *tensors)
            return output, *pullback(upstream)

        return (jax.jit(both) if mode == "jit" else both)(tensors, upstream)

elif BACKEND == "tensorflow":
    import tensorflow as tf

    _double_precision = contextlib.nullcontext

    def _vjp(function, tensors, upstream, mode, open_sizes):
        def both(upstream, *tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                output = function(*tensors)
            return [output, *tape.gradient(output, tensors, upstream)]

        if mode != "eager":
            shape = upstream.shape
            if open_sizes and mode == "graph":
                shape = [None, *shape[1:]]
            signature = [tf.TensorSpec(shape, v.dtype) for v in (upstream, tensors[0])]
            signature += [tf.TensorSpec(v.shape, v.dtype) for v in tensors[1:]]
            both = tf.function(both, signature, jit_compile=mode == "xla")
        return both(upstream, *tensors)

else:
    import torch

    from keras_norm.kernels.torch import task

    _double_precision = contextlib.nullcontext

    @contextlib.contextmanager
    def large():
        """Treats all inputs as too large to be copied into the order of a native function."""
        most = task.MOST_COPIED
        try:
            task.MOST_COPIED = 0
            task._task.cache_clear()
            yield
        finally:
            task.MOST_COPIED = most
            task._task.cache_clear()

    def _vjp(function, tensors, upstream, mode, open_sizes):
        tensors = [v.detach().requires_grad_() for v in tensors]
        if mode == "compiled":
            torch._dynamo.reset()
            function = torch.compile(
                function, backend="aot_eager", fullgraph=True, dynamic=open_sizes
            )
        with large() if mode == "large" else contextlib.nullcontext():
            output = function(*tensors)
            found = torch.autograd.grad(output, tensors, upstream)
        return [v.detach() for v in (output, *found)]


def forward_and_batched(function, x, tangent):
    """Returns the Jacobian-vector product of a function, and its outputs for a batch of two.

    None for what the backend has no function for.
    """
    tensor = keras.ops.convert_to_tensor
    stack = tensor(np.stack([x, 2 * x]))
    x, tangent = tensor(x), tensor(tangent)
    if BACKEND == "jax":
        return jax.jvp(function, (x,), (tangent,))[1], jax.vmap(function)(stack)
    if BACKEND == "torch":
        return torch.func.jvp(function, (x,), (tangent,))[1], torch.func.vmap(function)(stack)
    with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
        y = function(x)
    return accumulator.jvp(y), tf.vectorized_map(function, stack)
