"""What only TensorFlow has: forward mode, unknown sizes, recomputed gradients."""

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("tests of the TensorFlow kernel", allow_module_level=True)

import numpy as np
import tensorflow as tf

from keras_norm import kernels, ops

X = tf.constant(np.random.default_rng(0).standard_normal((5, 3, 4)), tf.float32)


def loss(x, normalize=ops.normalize):
    return tf.reduce_sum(normalize(x, (0, 1), 1e-2)[0] * tf.range(4.0) ** 2 + x) ** 2 + (
        tf.reduce_sum(normalize(x, (1, 2), 1e-2)[0] ** 3)
    )


def plain_loss(x):
    return loss(x, ops.normalize.__wrapped__)


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_forward_mode(jit_compile):
    def tangent(f):
        def compute(x):
            with tf.autodiff.ForwardAccumulator(x, tf.cos(x)) as accumulator:
                y = f(x)
            return accumulator.jvp(y)

        return compute if jit_compile is None else tf.function(compute, jit_compile=jit_compile)

    np.testing.assert_allclose(tangent(loss)(X), tangent(plain_loss)(X), rtol=1e-4)


def test_unknown_sizes():
    signature = [tf.TensorSpec([None, None, 4])]
    found, expected = (tf.function(f, signature) for f in (loss, plain_loss))
    np.testing.assert_allclose(found(X), expected(X), rtol=1e-5)
    normalize = tf.function(lambda x: ops.normalize(x, (0, 1), 1e-2)[0], signature)
    assert normalize(X[:0]).shape == (0, 3, 4)


def test_a_batch_of_unknown_size_is_not_declined():
    @tf.function(input_signature=[tf.TensorSpec([None, 3, 4])])
    def declined(x):
        return tf.constant(kernels._kernel("normalize")(x, (0, 1), 1e-2) is None)

    assert not declined(X)


def test_recomputed_gradients():
    def gradient(f):
        x = tf.Variable(X)
        with tf.GradientTape() as tape:
            y = f(x)
        return tape.gradient(y, x)

    np.testing.assert_allclose(gradient(tf.recompute_grad(loss)), gradient(loss), rtol=1e-5)
