"""Features of TensorFlow: forward mode, unknown sizes, recomputed gradients."""

import contextlib
import subprocess
import sys

import keras
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("tests of the TensorFlow kernel", allow_module_level=True)

import numpy as np
import tensorflow as tf

import keras_norm
from keras_norm import ops
from keras_norm.kernels.tensorflow import SetsInXla, _kind
from tests import oracle, plain
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
@pytest.mark.parametrize("has_gamma", [False, True])
def test_unknown_sizes_are_not_declined(sizes, masked, has_gamma):
    shape = (*(5, 3, 2)[: len(sizes) - 1], 4)
    x = tf.constant(np.random.default_rng(0).standard_normal(shape), tf.float32)
    gamma = tf.ones([*([1] * (len(sizes) - 1)), 4]) if has_gamma else None
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
        found.append(_kind(exported=False) is SetsInXla)
        return tf.function(inner)(x)

    def inner(x):
        found.append(_kind(exported=False) is SetsInXla)
        return x

    outer(X)
    assert found == [jit_compile, jit_compile]
    assert _kind(exported=False) is not SetsInXla


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


@pytest.mark.slow
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


def stored_gradients(function, arrays, g, axis):
    """Returns an output in a graph, its gradients, and those of a penalty on the first one."""
    variables = [tf.Variable(v) for v in arrays]

    @tf.function(jit_compile=False)
    def run():
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                x, *vectors = map(tf.convert_to_tensor, variables)
                sizes = [1] * len(x.shape)
                sizes[axis] = -1
                gamma, beta, mean, variance = (tf.reshape(v, sizes) for v in vectors)
                moments = ops.Moments(1, mean, None, variance)
                y = function(x, moments, 1e-2, gamma, beta)
            gradients = inner.gradient(y, variables, g)
            penalty = tf.reduce_sum(gradients[0] ** 2)
        return y, *gradients, *outer.gradient(penalty, [variables[1], variables[4]])

    operations = {
        operation.type for operation in run.get_concrete_function().graph.get_operations()
    }
    return run(), "FusedBatchNormV3" in operations


# The stored means are 0.5 to 1.5 above these: far from zero, near it, and very far.
@pytest.mark.parametrize("mean", [0.0, -1.0, 1e5])
@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 4), 1), ((3, 5, 4), 2), ((0, 4), 1), ((3, 4, 5), 1)]
)
def test_stored_statistics_in_a_graph(shape, axis, mean):
    rng = np.random.default_rng(0)
    x, g = (rng.standard_normal(shape).astype("float32") for _ in range(2))
    gamma, beta, shift, variance = rng.uniform(0.5, 1.5, (4, 4)).astype("float32")
    x, shift = x + np.float32(mean), shift + np.float32(mean)
    arrays = x, gamma, beta, shift, variance
    found, is_fused = stored_gradients(ops.standardize, arrays, g, axis)
    expected, is_plain_fused = stored_gradients(plain.standardize, arrays, g, axis)
    assert (is_fused, is_plain_fused) == (axis == len(shape) - 1, False)
    wide = np.moveaxis(x.astype("float64"), axis, -1)
    right = (wide - shift) / np.sqrt(variance.astype("float64") + 1e-2) * gamma + beta
    right = np.moveaxis(right, -1, axis)
    np.testing.assert_allclose(found[0], right, rtol=2e-6, atol=2e-6)
    for actual, right in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(actual, right, rtol=1e-5, atol=1e-5)


def test_stored_statistics_are_one_operation_where_a_frozen_layer_trains():
    layer = keras_norm.BatchNormalization(trainable=False)
    layer.build((None, 4))

    def is_fused(training, has_gradient=False, **options):
        def call(x):
            with tf.GradientTape() if has_gradient else contextlib.nullcontext():
                return layer(x, training=training)

        run = tf.function(call, **options)
        graph = run.get_concrete_function(tf.TensorSpec((None, 4))).graph
        return "FusedBatchNormV3" in {operation.type for operation in graph.get_operations()}

    assert is_fused(training=True)
    # As in a backbone that is called with `training=False` in a model that trains.
    assert is_fused(training=False, has_gradient=True)
    # An exported graph has plain operations, and XLA fuses these.
    assert not is_fused(training=False)
    assert not is_fused(training=True, jit_compile=True)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("has_mask", [False, True])
def test_empty_batches_of_unknown_size(axis, has_mask):
    for layer in (
        keras_norm.BatchNormalization(axis),
        keras_norm.LayerNormalization(axis),
        keras_norm.GroupNormalization(2, axis),
    ):
        layer.build((None, 4, 4))
        sizes = [None, None, None]
        sizes[axis] = 4

        @tf.function(input_signature=[tf.TensorSpec(sizes), tf.TensorSpec([None, None], tf.bool)])
        def gradients(x, mask, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True, mask=mask if has_mask else None)
            return tape.gradient(y, [x, layer.gamma.value])

        to_x, to_gamma = gradients(tf.ones((0, 4, 4)), tf.ones((0, 4), tf.bool))
        assert to_x.shape == (0, 4, 4)
        assert to_gamma.numpy().tolist() == [0, 0, 0, 0]


def second_gradient(normalize, weights=None):
    """Returns a function with the gradient of a penalty of the gradient of a normalization."""

    def penalty(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = normalize(x, weights)
                loss = tf.reduce_sum((y if weights is None else y * weights) ** 3)
            # Factors: the gradient sums to 0 over a set, which hides mistakes.
            size = tf.reduce_sum(tf.cos(X) * inner.gradient(loss, x) ** 2)
        return outer.gradient(size, x)

    return penalty


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2,)])
@pytest.mark.parametrize("padding", [np.nan, np.inf])
def test_padding_never_spoils_a_second_gradient(axes, padding, jit_compile):
    weights = np.ones((5, 3, 1), "float32")
    weights[0, 1] = 0
    x = tf.where(weights > 0, X, padding)

    def found(normalize):
        def call(x, weights):
            return normalize(x, axes, 1e-2, None, None, weights)[0]

        return tf.function(second_gradient(call, weights), jit_compile=jit_compile)(x)

    expected = found(plain.normalize)
    np.testing.assert_allclose(
        found(ops.normalize), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("sizes", [[None, 3, 4], [None, None, 4]])
@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2,)])
def test_second_gradients_of_unknown_sizes_under_xla(sizes, axes):
    def found(normalize):
        penalty = second_gradient(lambda x, _: normalize(x, axes, 1e-2)[0])
        return tf.function(penalty, input_signature=[tf.TensorSpec(sizes)], jit_compile=True)(X)

    expected = found(plain.normalize)
    np.testing.assert_allclose(
        found(ops.normalize), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("shape", [(131072, 3), (3061, 3), (4096, 64, 5), (3061, 7, 7, 6)])
def test_equal_squares_keep_accuracy_without_xla(shape):
    """Sums of equal numbers are rounded in one direction: the plain function has errors of 3e-6."""
    axes = tuple(range(len(shape) - 1))
    values = np.random.default_rng(0).uniform(0.5, 20, shape[-1]).astype("float32")
    x = np.broadcast_to(values, shape)
    run = tf.function(lambda x: ops.normalize(x, axes, 1e-6, centered=False)[0])
    expected = x.astype("float64") / np.sqrt(values.astype("float64") ** 2 + 1e-6)
    assert oracle.error(run(x), expected) < 4e-6


def test_a_nested_function_that_xla_compiled_first_also_runs_outside_of_it():
    """docs/speed.md advises this order: some operations without XLA have no kernel for it."""
    inner = tf.function(lambda x: ops.normalize(x, (0, 1), 1e-2)[0])
    outer = tf.function(lambda x: inner(x), jit_compile=True)
    expected = plain.normalize(X, (0, 1), 1e-2)[0]
    for run in (outer, inner, outer):
        np.testing.assert_allclose(run(X), expected, atol=1e-5)
