"""Values, gradients and gradients of gradients on any backend, as NumPy arrays."""

import keras
import numpy as np

DEFAULT = {"jax": "jit"}.get(keras.backend.backend())


def all_orders(function, arrays, cotangent, compiled=DEFAULT):
    """Returns the output, its gradients, and the gradients of their squared norm.

    Args:
        function: From tensors to one tensor.
        arrays: Its arguments.
        cotangent: What the output is multiplied by.
        compiled: On TensorFlow "graph" or "xla" compiles the computation, on JAX "jit".
    """
    return [
        np.asarray(v)
        for v in _BACKENDS[keras.backend.backend()](function, arrays, cotangent, compiled)
    ]


def third_order(function, x):
    """Returns the gradient of s(gradient of s(gradient of s(y))), s being a sum of cubes."""
    x = keras.ops.convert_to_tensor(x)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(lambda x: _of_order(3, function, x))(x)
    return _of_order(3, function, x)


def _cubes(v):
    return keras.ops.sum(v**3)


def _of_order(order, function, x):
    """Returns a gradient as above; of order 0 the value of the function."""
    if order == 0:
        return function(x)
    backend = keras.backend.backend()
    lower = lambda x: _cubes(_of_order(order - 1, function, x))  # noqa: E731
    if backend == "jax":
        import jax

        return jax.grad(lower)(x)
    if backend == "torch":
        import torch

        if not x.requires_grad:
            x = x.clone().requires_grad_()
        return torch.autograd.grad(lower(x), x, create_graph=True)[0]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = lower(x)
    return tape.gradient(value, x)


def _jax(function, arrays, cotangent, compiled):
    import jax
    import jax.numpy as jnp

    def norm(*a):
        y, vjp = jax.vjp(function, *a)
        first = vjp(jnp.asarray(cotangent))
        return sum((g**2).sum() for g in first), (y, *first)

    compute = jax.grad(norm, tuple(range(len(arrays))), has_aux=True)
    second, first = (jax.jit(compute) if compiled else compute)(*map(jnp.asarray, arrays))
    return *first, *second


def _torch(function, arrays, cotangent, compiled):
    import torch

    arguments = [torch.tensor(v, requires_grad=True) for v in arrays]
    y = function(*arguments)
    loss = (y * torch.tensor(cotangent)).sum()
    # Without a graph for second derivatives a kernel takes another path.
    fast = torch.autograd.grad(loss, arguments, retain_graph=True)
    first = torch.autograd.grad(loss, arguments, create_graph=True)
    norm = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(norm, arguments, allow_unused=True, materialize_grads=True)
    return [v.detach() for v in (y, *fast, *first, *second)]


def _tensorflow(function, arrays, cotangent, compiled):
    import tensorflow as tf

    def compute(*a):
        with tf.GradientTape() as outer:
            outer.watch(a)
            with tf.GradientTape() as inner:
                inner.watch(a)
                y = function(*a)
            first = inner.gradient(y, a, tf.constant(cotangent))
            norm = tf.add_n([tf.reduce_sum(tf.cast(g, y.dtype) ** 2) for g in first])
        zero = tf.UnconnectedGradients.ZERO
        return y, *first, *outer.gradient(norm, a, unconnected_gradients=zero)

    if compiled:
        signature = [
            tf.TensorSpec(
                [None, *v.shape[1:]] if v is arrays[0] and compiled == "graph" else v.shape, v.dtype
            )
            for v in arrays
        ]
        compute = tf.function(compute, signature, jit_compile=compiled == "xla")
    return compute(*map(tf.constant, arrays))


_BACKENDS = {"jax": _jax, "torch": _torch, "tensorflow": _tensorflow}
