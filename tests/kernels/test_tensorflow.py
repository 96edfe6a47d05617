"""Features of TensorFlow: forward mode, unknown sizes, recomputed gradients."""

import subprocess
import sys

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("tests of the TensorFlow kernel", allow_module_level=True)

import numpy as np
import tensorflow as tf

from keras_norm import ops
from keras_norm.kernels.tensorflow import Target, _target
from tests import plain
from tests.kernels import test_kernels

X = tf.constant(np.random.default_rng(0).standard_normal((5, 3, 4)), tf.float32)


def loss(x, normalize=ops.normalize):
    return tf.reduce_sum(normalize(x, (0, 1), 1e-2)[0] * tf.range(4.0) ** 2 + x) ** 2 + (
        tf.reduce_sum(normalize(x, (1, 2), 1e-2)[0] ** 3)
    )


def plain_loss(x):
    return loss(x, plain.normalize)


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize("x", [X, tf.where(tf.range(4) == 1, 0.0, X)])
@pytest.mark.parametrize("is_inner", [True, False])
def test_forward_mode(x, jit_compile, is_inner):
    def compiled(f):
        return f if jit_compile is None else tf.function(f, jit_compile=jit_compile)

    def tangent(f):
        f = compiled(f) if is_inner else f

        def compute(x):
            with tf.autodiff.ForwardAccumulator(x, tf.cos(x)) as accumulator:
                y = f(x)
            return accumulator.jvp(y)

        return compute if is_inner else compiled(compute)

    np.testing.assert_allclose(tangent(loss)(x), tangent(plain_loss)(x), rtol=1e-4)


@pytest.mark.parametrize("sizes", [[None, None, 4], [None, 3, 4]])
def test_unknown_sizes(sizes):
    signature = [tf.TensorSpec(sizes)]
    found, expected = (tf.function(f, signature) for f in (loss, plain_loss))
    np.testing.assert_allclose(found(X), expected(X), rtol=1e-5)

    @tf.function(input_signature=signature)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ops.normalize(x, (0, 1), 1e-2)[0]
        return tape.gradient(y, x)

    assert gradient(X[:0]).shape == (0, 3, 4)


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2,)])
def test_gradients_by_sample(axes, mean):
    def by_sample(f):
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(f(x[None], axes, 1e-2)[0] ** 3)
            return tape.gradient(loss, x)

        return tf.vectorized_map(gradient, X + mean)

    expected = by_sample(plain.normalize)
    np.testing.assert_allclose(by_sample(ops.normalize), expected, atol=2e-5)


@pytest.mark.parametrize("shape", [(2, 331, 331, 4), (4, 227, 227, 8)])
@pytest.mark.parametrize("compiled", ["graph", "xla"])
def test_compiled_kernels_keep_the_promised_accuracy(shape, compiled):
    test_kernels.assert_promised_accuracy(shape, (0, 1, 2), (3,), 0.9, compiled=compiled)


@pytest.mark.parametrize("sizes", [[None, 3, 4], [None, None, 4], [None, None, None, 4], [None, 4]])
@pytest.mark.parametrize("masked", [False, True])
def test_unknown_sizes_are_not_declined(sizes, masked):
    shape = (*(5, 3, 2)[: len(sizes) - 1], 4)
    x = tf.constant(np.random.default_rng(0).standard_normal(shape), tf.float32)
    gamma = tf.ones([*([1] * (len(sizes) - 1)), 4])
    weights = tf.cast(tf.random.stateless_uniform([*x.shape[:-1], 1], [0, 0]) < 0.7, "float32")

    @tf.function(input_signature=[tf.TensorSpec(sizes), tf.TensorSpec([*sizes[:-1], 1])])
    def call(x, weights):
        found = []
        for axes in (tuple(range(len(sizes) - 1)), tuple(range(1, len(sizes)))):
            given = weights if masked and axes[0] == 0 else None
            answer = test_kernels.answer(x, axes, gamma, weights=given)
            assert answer is not None
            found += [answer[0], *answer[1][1:]]
        return found

    expected = []
    for axes in (tuple(range(len(sizes) - 1)), tuple(range(1, len(sizes)))):
        y, moments = plain.normalize(x, axes, 1e-2, None, None, weights if masked and axes[0] == 0
                                     else None)  # fmt: skip
        expected += [y, moments.mean, moments.variance]
    found = call(x, weights)
    found = [found[0], found[1] + found[2], found[3], found[4], found[5] + found[6], found[7]]
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-5)


@pytest.mark.parametrize("exported", [False, True])
def test_no_branches_in_what_may_be_exported(exported):
    @tf.function
    def call(x):
        return ops.normalize(x, (1, 2), 1e-2, exported=exported)[0]

    operations = call.get_concrete_function(X).graph.get_operations()
    assert any("If" in operation.type for operation in operations) != exported
    np.testing.assert_allclose(call(X), plain.normalize(X, (1, 2), 1e-2)[0], rtol=1e-5, atol=1e-6)


def test_recomputed_gradients():
    def gradient(f):
        x = tf.Variable(X)
        with tf.GradientTape() as tape:
            y = f(x)
        return tape.gradient(y, x)

    np.testing.assert_allclose(gradient(tf.recompute_grad(loss)), gradient(loss), rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_code_for_xla_is_known(jit_compile):
    found = []

    @tf.function(jit_compile=jit_compile)
    def outer(x):
        found.append(_target(exported=False) is Target.XLA)
        return tf.function(inner)(x)

    def inner(x):
        found.append(_target(exported=False) is Target.XLA)
        return x

    outer(X)
    assert found == [jit_compile, jit_compile]
    assert _target(exported=False) is not Target.XLA


@pytest.mark.parametrize("rows", [100_000, 1_000_000])
@pytest.mark.parametrize("mean", [0.0, 1e5])
@pytest.mark.parametrize("compiled", ["graph", "xla"])
def test_long_axes_keep_the_promised_accuracy(rows, mean, compiled):
    test_kernels.assert_promised_accuracy((rows, 3), (0,), (1,), mean, compiled=compiled)


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2,)])
@pytest.mark.parametrize(("mean", "jit_compile"), [(0.0, None), (10.0, None), (10.0, False)])
def test_third_derivatives_are_the_plain_ones(axes, mean, jit_compile):
    def third(normalize):
        def compute(x):
            with tf.GradientTape() as a:
                a.watch(x)
                with tf.GradientTape() as b:
                    b.watch(x)
                    with tf.GradientTape() as c:
                        c.watch(x)
                        y = tf.reduce_sum(normalize(x, axes, 1e-2)[0] ** 3)
                    first = tf.reduce_sum(c.gradient(y, x) ** 2)
                second = tf.reduce_sum(b.gradient(first, x) ** 2)
            return a.gradient(second, x)

        if jit_compile is not None:
            compute = tf.function(compute, jit_compile=jit_compile)
        return compute(X + mean)

    expected = third(plain.normalize)
    np.testing.assert_allclose(
        third(ops.normalize), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )


def test_without_a_private_symbol_the_plain_function_answers():
    code = """
import warnings
import keras
from tensorflow.python.eager import forwardprop_util
del forwardprop_util.pack_tangents
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import keras_norm
    import numpy as np
    y = keras_norm.LayerNormalization()(np.float32([[1, 3], [5, 5]]))
ours = [str(w.message) for w in caught if "keras_norm" in str(w.message)]
print(len(ours), "fast implementation" in ours[0], keras.ops.convert_to_numpy(y).round(3).tolist())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "1 True [[-1.0, 1.0], [0.0, 0.0]]", result.stderr
