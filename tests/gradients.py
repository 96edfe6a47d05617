"""Outputs and gradients of a function on NumPy arrays, whatever the backend."""

import keras
import numpy as np


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def run(function, arrays, compiled=False):
    """Returns `function(*arrays)` as NumPy."""
    return _backend().run(function, arrays, compiled)


def vjp(function, arrays, upstream, compiled=False):
    """Returns the output of `function` and its gradients to all `arrays` for an upstream one."""
    return _backend().vjp(function, arrays, upstream, compiled)


def gradient_of_gradient(function, arrays, upstream, direction):
    """Returns the gradients to `arrays` and `upstream` of `sum(direction * dx)`.

    Here `dx` is the gradient of `sum(upstream * function(*arrays))` to the first array.
    """
    return _backend().gradient_of_gradient(function, arrays, upstream, direction)


def _backend():
    return {"jax": _Jax, "tensorflow": _TensorFlow, "torch": _Torch}[keras.backend.backend()]


class _Jax:
    @staticmethod
    def run(function, arrays, compiled):
        import jax

        return np.asarray((jax.jit(function) if compiled else function)(*arrays))

    @staticmethod
    def vjp(function, arrays, upstream, compiled):
        import jax

        def both(arrays, upstream):
            output, pullback = jax.vjp(function, *arrays)
            return output, *pullback(upstream)

        arrays = [jax.numpy.asarray(a) for a in arrays]
        return [np.asarray(a) for a in (jax.jit(both) if compiled else both)(arrays, upstream)]

    @staticmethod
    def gradient_of_gradient(function, arrays, upstream, direction):
        import jax

        def inner(upstream, *arrays):
            return jax.vjp(function, *arrays)[1](upstream)[0]

        arrays = [jax.numpy.asarray(a) for a in (upstream, *arrays)]
        to_upstream, *to_arrays = jax.jit(lambda *a: jax.vjp(inner, *a)[1](direction))(*arrays)
        return [np.asarray(a) for a in (*to_arrays, to_upstream)]


class _TensorFlow:
    @staticmethod
    def run(function, arrays, compiled):
        import tensorflow as tf

        function = tf.function(function, jit_compile=True) if compiled else function
        return function(*[tf.constant(a) for a in arrays]).numpy()

    @staticmethod
    def vjp(function, arrays, upstream, compiled):
        import tensorflow as tf

        def both(arrays, upstream):
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                output = function(*arrays)
            return [output, *tape.gradient(output, arrays, upstream)]

        both = tf.function(both, jit_compile=True) if compiled else both
        arrays = [tf.constant(a) for a in arrays]
        return [a.numpy() for a in both(arrays, tf.constant(upstream))]

    @staticmethod
    def gradient_of_gradient(function, arrays, upstream, direction):
        import tensorflow as tf

        arrays = [tf.constant(a) for a in (*arrays, upstream)]
        with tf.GradientTape() as outer:
            outer.watch(arrays)
            with tf.GradientTape() as tape:
                tape.watch(arrays[0])
                output = function(*arrays[:-1])
            dx = tape.gradient(output, arrays[0], arrays[-1])
        zero = tf.UnconnectedGradients.ZERO
        found = outer.gradient(dx, arrays, tf.constant(direction), unconnected_gradients=zero)
        return [a.numpy() for a in found]


class _Torch:
    @staticmethod
    def run(function, arrays, compiled):
        import torch

        return numpy(function(*[torch.tensor(a) for a in arrays]))

    @staticmethod
    def vjp(function, arrays, upstream, compiled):
        import torch

        arrays = [torch.tensor(a, requires_grad=True) for a in arrays]
        output = function(*arrays)
        return [
            numpy(a) for a in (output, *torch.autograd.grad(output, arrays, torch.tensor(upstream)))
        ]

    @staticmethod
    def gradient_of_gradient(function, arrays, upstream, direction):
        import torch

        arrays = [torch.tensor(a, requires_grad=True) for a in (*arrays, upstream)]
        output = function(*arrays[:-1])
        (dx,) = torch.autograd.grad(output, arrays[0], arrays[-1], create_graph=True)
        found = torch.autograd.grad(
            dx, arrays, torch.tensor(direction), allow_unused=True, materialize_grads=True
        )
        return [numpy(a) for a in found]
