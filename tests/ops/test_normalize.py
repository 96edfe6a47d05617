"""Accuracy of outputs and gradients, on every backend, eager and compiled."""

import keras
import numpy as np
import pytest

from keras_norm.ops import Moments, moments, normalize, standardize
from tests import gradients, oracle, plain

BACKEND = keras.backend.backend()
COMPILED = [False] if BACKEND == "torch" else [False, True]
# The contract's figure. Rounding of the output alone is 3e-8; sums add their own.
TOLERANCE = 2e-6

# Shape, the axes of a set, the axes of gamma. Long and prime sizes, sets of every layer.
CASES = {
    "batch, features": ((300, 7), (0,), (1,)),
    "batch, prime rows": ((4099, 3), (0,), (1,)),
    "batch, many features": ((4096, 600), (0,), (1,)),
    "batch, image": ((4, 14, 14, 6), (0, 1, 2), (3,)),
    "batch, image, channels first": ((4, 6, 14, 14), (0, 2, 3), (1,)),
    "layer, sequence": ((6, 1100, 5), (1, 2), (2,)),
    "layer, per step": ((20, 60, 16), (2,), (2,)),
    "layer, gamma over all": ((5, 7, 9), (1, 2), (1, 2)),
    "group": ((5, 8, 8, 3, 4), (1, 2, 4), (3, 4)),
    "video": ((2, 3, 4, 5, 6, 3), (1, 2, 3, 4, 5), (5,)),
}
MEANS = [0, 1e2, 1e3, 1e4, 1e5, -1e5]


def problem(case, mean, seed=0):
    shape, axes, parameter_axes = CASES[case]
    generator = np.random.default_rng(seed)
    parameter_shape = [n if a in parameter_axes else 1 for a, n in enumerate(shape)]
    x = (generator.standard_normal(shape) + mean).astype("float32")
    gamma = generator.uniform(0.5, 1.5, parameter_shape).astype("float32")
    beta = generator.standard_normal(parameter_shape).astype("float32")
    upstream = (generator.standard_normal(shape) + 0.3).astype("float32")
    return x, gamma, beta, upstream, axes


def assert_accurate(x, gamma, beta, upstream, axes, compiled, weights=None):
    def function(x, gamma, beta):
        return normalize(x, axes, 1e-5, gamma, beta, weights)[0]

    output, *actual = gradients.vjp(function, [x, gamma, beta], upstream, compiled)
    assert (
        oracle.error(output, oracle.normalize(x, axes, 1e-5, gamma, beta, weights)[0]) < TOLERANCE
    )
    to_x, to_gamma, to_beta, scale = oracle.gradients(x, axes, upstream, 1e-5, gamma, weights)
    assert oracle.error(actual[0], to_x, scale) < TOLERANCE
    assert oracle.error(actual[1], oracle.sum_to(to_gamma, gamma.shape)) < TOLERANCE
    assert oracle.error(actual[2], oracle.sum_to(to_beta, beta.shape)) < TOLERANCE


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("case", CASES)
def test_accuracy(case, mean):
    assert_accurate(*problem(case, mean), compiled=False)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("case", CASES)
def test_accuracy_where_kernels_do_not_shift(case, compiled):
    x, gamma, beta, upstream, axes = problem(case, mean=0.9)
    output, to_x, to_gamma, _ = gradients.vjp(
        lambda x, gamma, beta: normalize(x, axes, 1e-5, gamma, beta)[0],
        [x, gamma, beta],
        upstream,
        compiled,
    )
    assert oracle.error(output, oracle.normalize(x, axes, 1e-5, gamma, beta)[0]) < TOLERANCE
    expected, terms, _, scale = oracle.gradients(x, axes, upstream, 1e-5, gamma)
    assert oracle.error(to_x, expected, scale) < TOLERANCE
    # Rounding of a sum is relative to what it adds up, which cancels in part.
    expected, scale = (oracle.sum_to(v, gamma.shape) for v in (terms, np.abs(terms)))
    assert oracle.error(to_gamma, expected, scale) < TOLERANCE


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch runs eagerly")
@pytest.mark.parametrize("case", CASES)
def test_accuracy_compiled(case):
    # 1e3 and not a power of two is where contracted instructions showed.
    for mean in (1e3, 1e5):
        assert_accurate(*problem(case, mean), compiled=True)


@pytest.mark.parametrize("mean", MEANS)
def test_accuracy_with_leading_padding(mean):
    x, gamma, beta, upstream, axes = problem("layer, sequence", mean)
    weights = np.ones((6, 1100, 1), "float32")
    weights[:, :100] = 0
    weights[3] = 0  # a sample that is all padding
    x = np.where(weights > 0, x, np.float32(1e4))
    # The output where padding stands is large; it is the rest that must be exact.
    assert_accurate(x, gamma, beta, upstream * weights, axes, False, weights)
    output, *to = gradients.vjp(
        lambda x, gamma, beta: normalize(x, axes, 1e-5, gamma, beta, weights)[0],
        [x, gamma, beta],
        upstream,
    )
    np.testing.assert_array_equal(output[3], np.broadcast_to(beta, x.shape)[3])
    np.testing.assert_array_equal(to[0][3], 0)
    held = np.broadcast_to(weights > 0, x.shape)
    expected = oracle.normalize(x, axes, 1e-5, gamma, beta, weights)[0]
    assert oracle.error(output[held], expected[held]) < TOLERANCE


@pytest.mark.parametrize("padding", [np.nan, np.inf, 3e38])
def test_padding_never_spoils_a_gradient(padding):
    x, gamma, beta, upstream, axes = problem("layer, sequence", 10)
    weights = np.ones((6, 1100, 1), "float32")
    weights[0, :100] = 0
    weights[1] = 0
    x = np.where(weights > 0, x, np.float32(padding))
    output, *to = gradients.vjp(
        lambda x, gamma, beta: normalize(x, axes, 1e-5, gamma, beta, weights)[0],
        [x, gamma, beta],
        upstream * weights,
    )
    clean = np.where(weights > 0, x, 0)
    expected = oracle.normalize(clean, axes, 1e-5, gamma, beta, weights)[0]
    held = np.broadcast_to(weights > 0, x.shape)
    assert oracle.error(output[held], expected[held]) < TOLERANCE
    for gradient in to:
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_in_the_data_show(bad):
    x = np.ones((2, 3), "float32")
    x[1, 1] = bad
    output = gradients.run(lambda x: normalize(x, [1], 1e-5)[0], [x])
    assert np.isnan(output[1, 1])
    np.testing.assert_array_equal(output[0], 0)


@pytest.mark.parametrize(
    "x",
    [
        np.full((7, 3), 12345.678),
        np.full((1, 5), 3.0),
        np.random.default_rng(0).standard_normal((50, 4)) * 1e-20,
        np.random.default_rng(0).standard_normal((50, 4)) * 1e15,
        np.full((5, 3), 1e15),
    ],
    ids=["constant", "one sample", "tiny", "huge", "huge constant"],
)
def test_degenerate_input(x):
    x = x.astype("float32")
    output, to_x = gradients.vjp(lambda x: normalize(x, [0], 1e-5)[0], [x], np.ones_like(x))
    assert np.all(np.isfinite(to_x))
    np.testing.assert_allclose(output, oracle.normalize(x, [0])[0], rtol=1e-5, atol=1e-3)


def test_empty_batch():
    output, to_x, to_gamma = gradients.vjp(
        lambda x, gamma: normalize(x, [0], 1e-5, gamma)[0],
        [np.ones((0, 3), "float32"), np.ones((1, 3), "float32")],
        np.ones((0, 3), "float32"),
    )
    assert output.shape == to_x.shape == (0, 3)
    np.testing.assert_array_equal(to_gamma, 0)


@pytest.mark.parametrize("masked", [False, True])
def test_second_derivatives_match_finite_differences_of_the_oracle(masked):
    """The gradient of sum(direction * dx), against central differences of the float64 formula."""
    generator = np.random.default_rng(0)
    x, direction, upstream = (generator.standard_normal((4, 3, 2)) for _ in range(3))
    gamma = generator.uniform(0.5, 1.5, (1, 1, 2))
    weights = np.ones((4, 3, 1), "float32")
    if masked:
        weights[0, 0] = 0

    def first(x, gamma, upstream):
        to_x = oracle.gradients(x, (1, 2), upstream, 1e-2, gamma, weights)[0]
        return (direction * to_x).sum()

    arguments = [x, gamma, upstream]
    expected = []
    for index, argument in enumerate(arguments):
        slope = np.zeros_like(argument)
        for position in np.ndindex(argument.shape):
            values = []
            for step in (1e-5, -1e-5):
                moved = [a.copy() for a in arguments]
                moved[index][position] += step
                values.append(first(*moved))
            slope[position] = (values[0] - values[1]) / 2e-5
        expected.append(slope)
    actual = gradients.gradient_of_gradient(
        lambda x, gamma: normalize(x, [1, 2], 1e-2, gamma, weights=weights if masked else None)[0],
        [x.astype("float32"), gamma.astype("float32")],
        upstream.astype("float32"),
        direction.astype("float32"),
    )
    for found, slope in zip(actual, expected, strict=True):
        # Central differences are good to 1e-9, float32 second derivatives to some 1e-6.
        assert oracle.error(found, slope) < 1e-5


@pytest.mark.parametrize("mean", [0.0, 1e5])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((9, 50, 4), (0, 1)), ((9, 50, 4), (2,)), ((9, 50, 4), (1, 2)), ((1_000_000, 2), (0,))],
)
def test_the_plain_function_is_accurate(shape, axes, mean):
    x = (np.random.default_rng(0).standard_normal(shape) + mean).astype("float32")
    expected = oracle.normalize(x, axes, 1e-5)[0]
    y = plain.normalize(keras.ops.convert_to_tensor(x), axes, 1e-5)[0]
    assert oracle.error(y, expected) < 2e-6


def test_beta_is_of_its_own_axis_in_the_plain_function():
    tensor = keras.ops.convert_to_tensor
    x = np.random.default_rng(0).standard_normal((2, 3, 3)).astype("float32")
    beta = np.float32([[[1], [2], [3]]])
    zeros, ones = np.zeros_like(beta), np.ones_like(beta)
    stored = Moments(1, tensor(zeros), None, tensor(ones))
    y = plain.standardize(tensor(x), stored, 1e-5, beta=tensor(beta))
    assert oracle.error(y, x / np.sqrt(1 + 1e-5) + beta) < 2e-6


def test_standardize_with_given_moments_is_exact_at_large_means():
    x, gamma, beta, upstream, _ = problem("batch, image", 1e5)
    found = moments(keras.ops.convert_to_tensor(x), [0, 1, 2])
    given = found._replace(shift=found.mean, residual=None)
    mean = gradients.numpy(given.shift).astype("float64")
    variance = gradients.numpy(given.variance).astype("float64")
    output, to_x = gradients.vjp(lambda x: standardize(x, given, 1e-5, gamma, beta), [x], upstream)
    inverse = 1 / np.sqrt(variance + 1e-5)
    assert oracle.error(output, (x - mean) * inverse * gamma + beta) < TOLERANCE
    assert oracle.error(to_x, upstream * inverse * gamma) < TOLERANCE


if BACKEND == "jax":

    def test_forward_mode_and_vmap():
        import jax

        x, *_ = problem("batch, features", 1e3)
        function = lambda x: normalize(x, [0], 1e-5)[0]  # noqa: E731
        tangent = np.random.default_rng(1).standard_normal(x.shape).astype("float32")
        _, forward = jax.jvp(function, (x,), (tangent,))
        to_x, *_ = oracle.gradients(x, [0], tangent)  # the Jacobian of a set is symmetric
        assert oracle.error(forward, to_x, tangent) < TOLERANCE
        stacked = jax.vmap(function)(np.stack([x, 2 * x]))
        assert oracle.error(stacked[1], oracle.normalize(2 * x, [0])[0]) < TOLERANCE
        assert jax.jacfwd(function)(x[:3]).shape == (3, 7, 3, 7)


if BACKEND == "torch":

    def test_functional_transforms():
        import torch

        x, *_ = problem("batch, features", 1e3)
        function = lambda x: normalize(x, [0], 1e-5)[0]  # noqa: E731
        tangent = np.random.default_rng(1).standard_normal(x.shape).astype("float32")
        _, forward = torch.func.jvp(function, (torch.tensor(x),), (torch.tensor(tangent),))
        to_x, *_ = oracle.gradients(x, [0], tangent)
        assert oracle.error(forward, to_x, tangent) < TOLERANCE
        stacked = torch.func.vmap(function)(torch.tensor(np.stack([x, 2 * x])))
        assert oracle.error(stacked[1], oracle.normalize(2 * x, [0])[0]) < TOLERANCE
        reverse = torch.func.vjp(function, torch.tensor(x))[1](torch.tensor(tangent))[0]
        assert oracle.error(reverse, to_x, tangent) < TOLERANCE


if BACKEND == "tensorflow":

    def test_forward_accumulator_and_unknown_sizes():
        import tensorflow as tf

        x, *_ = problem("batch, features", 1e3)
        function = lambda x: normalize(x, [0], 1e-5)[0]  # noqa: E731
        tangent = np.random.default_rng(1).standard_normal(x.shape).astype("float32")
        to_x, *_ = oracle.gradients(x, [0], tangent)
        x_tensor = tf.constant(x)
        with tf.autodiff.ForwardAccumulator(x_tensor, tf.constant(tangent)) as accumulator:
            output = function(x_tensor)
        assert oracle.error(accumulator.jvp(output), to_x, tangent) < TOLERANCE
        unknown = tf.function(function, input_signature=[tf.TensorSpec([None, 7])])
        for rows in (1, 300):
            assert oracle.error(unknown(x[:rows]), oracle.normalize(x[:rows], [0])[0]) < TOLERANCE

    def test_a_view_of_unknown_sizes_has_no_more_axes_than_tensorflow_broadcasts():
        import tensorflow as tf

        sizes = [tf.TensorSpec([None] * 5 + [6]), tf.TensorSpec([None] * 5 + [1])]
        axes = range(1, 6)
        function = tf.function(
            lambda x, weights: plain.normalize(x, list(axes), 1e-5, weights=weights)[0], sizes
        )
        generator = np.random.default_rng(0)
        x = generator.standard_normal((2, 3, 2, 3, 2, 6)).astype("float32")
        weights = (generator.random((*x.shape[:-1], 1)) < 0.7).astype("float32")
        expected = oracle.normalize(x, axes, weights=weights)[0]
        assert oracle.error(function(x, weights), expected) < TOLERANCE

    @pytest.mark.parametrize("function", [normalize, plain.normalize])
    @pytest.mark.parametrize("axes", [[0, 1], [1, 2], [2]])
    @pytest.mark.parametrize("masked", [(6, 1, 1), (1, 5, 1), (1, 1, 1)])
    def test_a_mask_of_unknown_size_may_be_broadcast(masked, axes, function):
        import tensorflow as tf

        call = tf.function(
            lambda x, weights: function(x, axes, 1e-5, weights=weights)[0],
            [tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None, 1])],
        )
        generator = np.random.default_rng(0)
        x = generator.standard_normal((6, 5, 4)).astype("float32")
        weights = (generator.random(masked) < 0.6).astype("float32")
        weights[0] = 1
        expected = oracle.normalize(x, axes, weights=np.broadcast_to(weights, (6, 5, 1)))[0]
        valid = np.broadcast_to(weights > 0, x.shape)
        assert oracle.error(call(x, weights).numpy()[valid], expected[valid]) < TOLERANCE


@pytest.mark.parametrize("compiled", COMPILED)
def test_long_sums_go_in_stages(compiled):
    """In stages the error of beta's gradient is 3e-7; TensorFlow in one go has 3e-6."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((250_000, 4)).astype("float32")
    upstream = generator.uniform(0, 1, x.shape).astype("float32") * (x > 0)
    gamma, beta = np.ones((1, 4), "float32"), np.zeros((1, 4), "float32")
    _, _, to_gamma, to_beta = gradients.vjp(
        lambda x, gamma, beta: normalize(x, [0], 1e-5, gamma, beta)[0],
        [x, gamma, beta],
        upstream,
        compiled,
    )
    _, gamma_terms, beta_terms, _ = oracle.gradients(x, [0], upstream)
    assert oracle.error(to_gamma, oracle.sum_to(gamma_terms, gamma.shape)) < 1e-6
    assert oracle.error(to_beta, oracle.sum_to(beta_terms, beta.shape)) < 1e-6
