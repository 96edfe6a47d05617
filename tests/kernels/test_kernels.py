"""The kernel against the plain function, and the switches."""

import contextlib
import math
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_norm
from keras_norm import kernels, ops
from keras_norm.ops import registry
from tests import oracle, plain
from tests.kernels import modes
from tests.kernels.derivatives import all_orders, third_order

BACKEND = keras.backend.backend()
COMPILED = {"jax": ["jit"], "torch": [None], "tensorflow": [None, "graph", "xla"]}[BACKEND]

# Shape, axes of a set, axes of gamma and beta: each layer, channels last and first, rank 2 to 6.
CASES = [
    ((9, 4), (0,), (1,)),
    ((5, 3, 4), (0, 1), (2,)),
    ((5, 4, 3), (0, 2), (1,)),
    ((5, 3, 20, 4), (0, 1, 2), (3,)),
    ((5, 4, 3, 2), (0, 2, 3), (1,)),
    ((2, 3, 2, 3, 4), (0, 1, 2, 3), (4,)),
    ((2, 4, 2, 3, 2, 2), (0, 2, 3, 4, 5), (1,)),
    ((5, 7), (1,), (1,)),
    ((2, 3, 7), (2,), (2,)),
    ((2, 3, 7), (1, 2), (2,)),
    ((2, 7, 3), (1, 2), (1,)),
    ((2, 20, 3, 4), (1, 2, 3), (3,)),
    ((2, 3, 4, 5), (2, 3), (2, 3)),
    ((2, 2, 3, 2, 2, 4), (1, 2, 3, 4, 5), (5,)),
    ((3, 2, 4), (2,), (1, 2)),
    ((2, 6, 2, 3), (1, 3), (2, 3)),
    ((2, 2, 3, 6), (2, 3), (1, 2)),
    ((2, 5, 4, 1), (1, 3), (2, 3)),
    ((1, 6, 2, 3), (1, 3), (2, 3)),
]
# What a kernel may decline: sets, gamma and beta that no layer makes of itself.
ODD_CASES = [
    ((2, 3, 4), (1,), (2,)),
    ((2, 3, 4, 5), (1, 3), (2,)),
    ((3, 4, 2), (0, 2), (0, 2)),
    ((4, 3), (0, 1), ()),
]


def problem(shape, spanned, mean=0.0, dtype="float32"):
    """Returns x, gamma, beta and a cotangent."""
    rng = np.random.default_rng(1)
    sizes = [size if axis in spanned else 1 for axis, size in enumerate(shape)]
    arrays = [
        rng.standard_normal(shape) + mean,
        rng.uniform(0.5, 1.5, sizes),
        rng.standard_normal(sizes),
        rng.standard_normal(shape),
    ]
    return [v.astype(dtype) for v in arrays]


def answer(x, axes, gamma=None, beta=None, weights=None, **options):
    """Returns the answer of the executors; None if all of them decline."""
    asked = ops.Problem.of(x, axes, 1e-2, gamma, beta, weights, **options)
    return registry.answer("normalize", asked, x, gamma, beta, weights, None)


def assert_close(actual, expected, tolerance=2e-5):
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == e.dtype
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * max(1.0, np.abs(e).max()))


@pytest.fixture(autouse=True, params=["small", "large"] if BACKEND == "torch" else ["small"])
def _kernels_on(request):
    """On PyTorch, small inputs are also treated as large ones, for which it has other code."""
    before = kernels.is_enabled()
    kernels.set_enabled(True)
    with modes.large() if request.param == "large" else contextlib.nullcontext():
        yield
    kernels.set_enabled(before)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(("shape", "axes", "spanned"), [*CASES, *ODD_CASES])
def test_kernel_is_the_plain_function(shape, axes, spanned, compiled):
    if compiled in ("graph", "xla") and shape not in {
        (5, 3, 20, 4),
        (2, 6, 2, 3),
        (2, 3, 7),
        (2, 20, 3, 4),
    }:
        pytest.skip("TensorFlow compiles one case of each kind")
    *arrays, cotangent = problem(shape, spanned, mean=3.0)
    expected, actual = (
        all_orders(lambda *a, f=f: f(a[0], axes, 1e-2, *a[1:])[0], arrays, cotangent, compiled)
        for f in (plain.normalize, ops.normalize)
    )
    assert_close(actual, expected)


@pytest.mark.parametrize(("shape", "axes", "spanned"), CASES)
def test_layers_problems_are_not_declined(shape, axes, spanned):
    x, gamma, beta, _ = map(keras.ops.convert_to_tensor, problem(shape, spanned))
    assert answer(x, axes, gamma, beta) is not None


@pytest.mark.parametrize("mean", [0.0, 0.9, 2.9, -1e5])
@pytest.mark.parametrize(("shape", "axes", "spanned"), [
    ((3000, 16), (0,), (1,)),
    ((16, 700, 64), (0, 1), (2,)),
    ((6, 8, 300), (0, 2), (1,)),
    ((4, 700, 64), (1, 2), (2,)),
    ((3, 700, 64), (1, 2), (2,)),
    ((4, 9000, 32), (1, 2), (2,)),
    ((4, 5000, 2, 2), (1, 3), (2, 3)),
    ((600, 64), (1,), (1,)),
    ((9000, 16), (1,), (1,)),
    # Sizes that divide badly, and samples too small to call native kernels for.
    ((8209, 3), (0,), (1,)),
    ((2, 3, 10007), (0, 2), (1,)),
    ((2, 3, 12000), (0, 2), (1,)),
    ((2, 331, 331, 4), (0, 1, 2), (3,)),
    ((100_000, 2, 4), (0, 1), (2,)),
    # Long sets with a gamma for each element.
    ((2, 150_528), (1,), (1,)),
    ((64, 40, 8), (1, 2), (2,)),
    ((3, 20, 4, 30), (1, 3), (2,)),
])  # fmt: skip
def test_kernel_keeps_the_promised_accuracy(shape, axes, spanned, mean):
    assert_promised_accuracy(shape, axes, spanned, mean)


@pytest.mark.parametrize(("shape", "axes", "spanned"), [
    # Lengths that are prime, or have no divisor to sum by.
    ((100_003, 3), (0,), (1,)),
    ((2, 20_011, 2), (1, 2), (2,)),
    ((2, 3, 20_011), (2,), (1,)),
    ((2, 40_022, 4), (0, 1), (2,)),
    # Many sets, which the gradients of gamma and beta are sums over.
    ((100_003, 4), (1,), (1,)),
    ((50_021, 3, 4), (1, 2), (2,)),
    ((1, 300_007), (1,), (1,)),
    # Several short axes.
    ((40, 7, 7, 8), (0, 1, 2), (3,)),
    ((3, 45, 45, 8), (1, 2), (3,)),
    ((6, 16, 8, 20), (0, 2, 3), (1,)),
])  # fmt: skip
@pytest.mark.parametrize("compiled", [mode for mode in COMPILED if mode is not None] or [None])
def test_no_length_is_declined(shape, axes, spanned, compiled):
    x, gamma, beta, _ = map(keras.ops.convert_to_tensor, problem(shape, spanned))
    assert answer(x, axes, gamma, beta) is not None
    assert_promised_accuracy(shape, axes, spanned, -1e5, compiled=compiled)


@pytest.mark.parametrize("mean", [0.0, 0.9, 2.9, 100.0])
@pytest.mark.parametrize(("shape", "axes", "spanned"), [
    ((16, 700, 64), (0, 1), (2,)),
    ((4, 700, 64), (1, 2), (2,)),
    ((2, 331, 331, 4), (0, 1, 2), (3,)),
    ((2, 3, 10007), (0, 2), (1,)),
    ((600, 64), (1,), (1,)),
    ((2, 150_528), (1,), (1,)),
])  # fmt: skip
def test_skewed_gradients_keep_the_promised_accuracy(shape, axes, spanned, mean):
    assert_promised_accuracy(shape, axes, spanned, mean, skew=1.0)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(("shape", "axes"), [
    ((8, 512, 64), (0, 1)),
    ((8, 512, 64), (1, 2)),
    ((8, 512, 64), (2,)),
    ((4, 32, 32, 64), (3,)),
])  # fmt: skip
def test_equal_gradients_keep_the_promised_accuracy(shape, axes, compiled):
    """A mean over positions, as of a pooling layer, has equal gradients: all round alike."""
    positions = tuple(range(1, len(shape) - 1))
    spanned = (len(shape) - 1,)
    # PyTorch's native sums over rows are sequential; docs/numerics.md says so.
    native_limit = 5e-5 if axes == spanned else 3e-6
    beta_limit = native_limit if BACKEND == "torch" else 2e-6
    options = {"compiled": compiled, "equal": positions, "beta_limit": beta_limit}
    assert_promised_accuracy(shape, axes, spanned, 0.9, **options)


def assert_promised_accuracy(
    shape, axes, spanned, mean, skew=0.0, equal=(), beta_limit=2e-6, **options
):
    x, gamma, beta, g = problem(shape, spanned, mean)
    g += np.float32(skew)
    g = np.broadcast_to(g.mean(equal, keepdims=True), shape).copy() if equal else g
    y, dx, dgamma, dbeta = all_orders(
        lambda *a: ops.normalize(a[0], axes, 1e-5, *a[1:])[0], (x, gamma, beta), g, **options
    )[:4]
    x, gamma, g = (v.astype("float64") for v in (x, gamma, g))
    inverse = (x.var(axes, keepdims=True) + 1e-5) ** -0.5
    h = (x - x.mean(axes, keepdims=True)) * inverse
    u = g * gamma
    mean_u, mean_uh = u.mean(axes, keepdims=True), (u * h).mean(axes, keepdims=True)
    over = tuple(axis for axis in range(x.ndim) if axis not in spanned)
    # What does not cancel in the terms of a skewed or equal gradient cancels in their sum.
    terms = np.abs(g * h).sum(over) if skew or equal else None
    for actual, expected, scale, limit in (
        (y, h * gamma + beta, None, 2e-6),
        (dx, inverse * (u - mean_u - h * mean_uh), inverse * u, 2e-6),
        (dgamma, (g * h).sum(over, keepdims=True), terms, 2e-6),
        (dbeta, g.sum(over, keepdims=True), None, beta_limit),
    ):
        scale = expected if scale is None else scale
        assert np.linalg.norm(actual - expected) < limit * np.linalg.norm(scale)


@pytest.mark.parametrize(
    ("given_gamma", "given_beta"), [(True, False), (False, True), (False, False)]
)
@pytest.mark.parametrize(("shape", "axes", "spanned"), [CASES[3], CASES[4], CASES[8], CASES[15]])
def test_gamma_and_beta_may_be_missing(shape, axes, spanned, given_gamma, given_beta):
    x, gamma, beta, g = problem(shape, spanned)
    given = [v for v, is_given in ((gamma, given_gamma), (beta, given_beta)) if is_given]

    def call(function):
        def f(x, *rest):
            rest = list(rest)
            gamma = rest.pop(0) if given_gamma else None
            return function(x, axes, 1e-2, gamma, rest.pop(0) if given_beta else None)[0]

        return all_orders(f, [x, *given], g)

    assert_close(call(ops.normalize), call(plain.normalize))


def test_gamma_and_beta_may_span_different_axes():
    x, _, _, g = problem((5, 3, 4), ())
    gamma, beta = np.float32([[[1, 2, 3, 4]]]), np.float32([[[1], [2], [3]]])

    def call(function):
        return all_orders(lambda *a: function(a[0], (0,), 1e-2, *a[1:])[0], (x, gamma, beta), g)

    assert_close(call(ops.normalize), call(plain.normalize))


def test_long_axes_are_viewed_as_short_ones():
    from keras_norm.kernels.view import short

    for size in (7, 512, 100_000, 3 * 2**14):
        sizes = short(size, 512)
        assert math.prod(sizes) == size
        assert max(sizes) <= 512
    assert short(8209, 512) == (8209,)  # a prime


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "axes", "spanned"), [CASES[2], CASES[3]])
def test_renormalization_is_the_plain_one(shape, axes, spanned, masked, compiled):
    *arrays, cotangent = problem(shape, spanned, mean=3.0)
    sizes = arrays[1].shape
    bounds = {"rmin": 0.9, "rmax": 1.1, "dmax": 0.3}
    mean = np.linspace(2.5, 3.5, 4, dtype="float32").reshape(sizes)
    deviation = np.linspace(0.5, 1.5, 4, dtype="float32").reshape(sizes)
    weights = np.ones([1 if axis in spanned else n for axis, n in enumerate(shape)], "float32")
    weights[1] = 0
    mean, deviation, weights = map(keras.ops.convert_to_tensor, (mean, deviation, weights))
    weights = weights if masked else None
    renorm = ops.Renorm(mean, deviation, **bounds)
    if BACKEND != "torch":
        x, gamma, beta = map(keras.ops.convert_to_tensor, arrays)
        asked = ops.Problem.of(x, axes, 1e-2, gamma, beta, weights, renorm=True)
        tensors = x, gamma, beta, weights, None, renorm
        assert registry.answer("normalize", asked, *tensors) is not None

    def call(x, gamma, beta):
        return ops.normalize(x, axes, 1e-2, gamma, beta, weights, renorm=renorm)[0]

    found = []
    for enabled in (True, False):
        kernels.set_enabled(enabled)
        # A new function: compiled programs are cached by function.
        found.append(all_orders(lambda *a: call(*a), arrays, cotangent, compiled))
    assert_close(*found)


@pytest.mark.parametrize(("shape", "axes", "spanned"), [CASES[3], CASES[8], CASES[15]])
def test_moments_are_the_plain_ones(shape, axes, spanned):
    x, gamma, beta, _ = map(keras.ops.convert_to_tensor, problem(shape, spanned, mean=50.0))
    (_, found), (_, expected) = (
        f(x, axes, 1e-2, gamma, beta) for f in (ops.normalize, plain.normalize)
    )
    for field in ("count", "mean", "variance"):
        assert_close(*([keras.ops.convert_to_numpy(getattr(m, field))] for m in (found, expected)))


@pytest.mark.parametrize("function", [ops.normalize, plain.normalize])
def test_moments_are_constants(function):
    x, *_, g = problem((5, 3, 4), (2,))

    def call(x):
        y, found = function(x, (0, 1), 1e-2)
        return y + found.mean + found.variance

    expected = all_orders(lambda x: function(x, (0, 1), 1e-2)[0], [x], g)
    assert_close(all_orders(call, [x], g)[1:], expected[1:])
    assert function(keras.ops.convert_to_tensor(x), (0, 1), 1e-2, with_moments=False)[1] is None


def test_nan_and_infinity_show_where_they_are():
    x = np.ones((3, 4, 2), "float32")
    x[0, 1, 1], x[1, 2, 0] = np.nan, np.inf
    y = ops.normalize(keras.ops.convert_to_tensor(x), (1,), 1e-2)[0]
    assert np.isnan(keras.ops.convert_to_numpy(y)[[0, 1], :, [1, 0]]).all()
    assert (keras.ops.convert_to_numpy(y)[[0, 1, 2], :, [0, 1, 0]] == 0).all()


@pytest.mark.parametrize("shape", [(0, 4), (0, 5, 4)])
def test_empty_batches(shape):
    layers = [keras_norm.BatchNormalization(), keras_norm.LayerNormalization(),
              keras_norm.GroupNormalization(2)]  # fmt: skip
    for layer in layers:
        layer.build((None, *shape[1:]))
        y = layer(np.zeros(shape, "float32"), training=True) if layer is layers[0] else layer(
            np.zeros(shape, "float32"))  # fmt: skip
        assert tuple(y.shape) == shape
        assert np.isfinite(
            [keras.ops.convert_to_numpy(keras.ops.sum(w)) for w in layer.weights]
        ).all()


def test_masks_are_the_plain_functions():
    x, gamma, beta, g = problem((3, 5, 4), (2,))
    weights = np.random.default_rng(0).integers(0, 2, (3, 5, 1)).astype("float32")
    call = lambda f: all_orders(  # noqa: E731
        lambda *a: f(a[0], (0, 1), 1e-2, *a[1:], keras.ops.convert_to_tensor(weights))[0],
        (x, gamma, beta), g)  # fmt: skip
    assert_close(call(ops.normalize), call(plain.normalize))


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("padding", [np.nan, np.inf, 1e25])
@pytest.mark.parametrize(("shape", "axes", "spanned", "masked"), [
    ((3, 5, 4), (2,), (2,), (3, 5, 1)),  # steps as a whole
    ((3, 5, 4), (1, 2), (2,), (3, 1, 1)),  # samples as a whole
    ((3, 5, 4), (1, 2), (2,), (3, 5, 1)),
    ((3, 5, 4), (0, 1), (2,), (3, 5, 1)),
    ((3, 4, 5), (0, 2), (1,), (3, 1, 5)),
    ((2, 3, 4, 5), (0, 1, 2), (1,), (2, 1, 4, 5)),  # samples last
])  # fmt: skip
def test_padding_of_any_size_changes_nothing(shape, axes, spanned, masked, padding, centered):
    x, gamma, beta, g = problem(shape, spanned)
    weights = np.ones(masked, "float32")
    weights[0, ..., 0] = weights[-1] = 0
    signs = np.random.default_rng(0).choice([-1, 0.5], shape)
    x = np.where(weights > 0, x, np.float32(padding * signs)).astype("float32")
    if np.isfinite(padding):
        g = g * weights
    results = []
    for function in (ops.normalize, plain.normalize):

        def call(*a, function=function):
            mask = keras.ops.convert_to_tensor(weights)
            y = function(a[0], axes, 1e-2, *a[1:], mask, centered=centered)[0]
            return keras.ops.where(mask > 0, y, 0) if np.isfinite(padding) else y

        results.append(all_orders(call, (x, gamma, beta), g)[:4])
    assert_close(*results)


@pytest.mark.parametrize("valid", [3, 40, 3000])
@pytest.mark.parametrize("values", [None, [0.1, 0.3]])
def test_few_valid_elements_keep_the_promised_accuracy(valid, values):
    rng = np.random.default_rng(0)
    shape = 8, 500, 8
    x = rng.standard_normal(shape) if values is None else rng.choice(values, shape)
    x = x.astype("float32")
    weights = np.zeros(4000, "float32")
    weights[rng.permutation(4000)[:valid]] = 1
    weights = weights.reshape(8, 500, 1)
    y, _ = ops.normalize(
        *(keras.ops.convert_to_tensor(x), (0, 1), 1e-5),
        weights=keras.ops.convert_to_tensor(weights),
    )
    expected = oracle.normalize(x, (0, 1), 1e-5, weights=weights)[0]
    where = np.broadcast_to(weights > 0, shape)
    assert oracle.error(keras.ops.convert_to_numpy(y)[where], expected[where]) < 2e-6


@pytest.mark.parametrize("count", [16411, 99991])  # primes
def test_long_rows_without_divisors_keep_the_promised_accuracy(count):
    x = np.float32(1e5 + np.random.default_rng(0).standard_normal((2, count)))
    y, _ = ops.normalize(keras.ops.convert_to_tensor(x), (1,), 1e-6, centered=False)
    expected = x / np.sqrt(np.mean(x.astype("float64") ** 2, 1, keepdims=True) + 1e-6)
    assert oracle.error(keras.ops.convert_to_numpy(y), expected) < 2e-6


def formula(x, axes, weights):
    """Returns the standardized input, as the formulas have it."""
    count = keras.ops.sum(weights + 0 * x, axes, keepdims=True)
    mean = keras.ops.sum(weights * x, axes, keepdims=True) / count
    variance = keras.ops.sum(weights * (x - mean) ** 2, axes, keepdims=True) / count
    return (x - mean) / keras.ops.sqrt(variance + 1e-2)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "axes"), [
    ((5, 3, 4), (0, 1)),  # batch
    ((5, 4, 3), (0, 2)),
    ((5, 3, 4), (2,)),  # layer over channels
    ((3, 4, 2), (1, 2)),  # layer over all
    ((2, 5, 2, 3), (1, 3)),  # groups
])  # fmt: skip
def test_third_derivatives(shape, axes, masked):
    x = problem(shape, ())[0]
    weights = np.ones([n if axis == 1 and axis in axes else 1 for axis, n in enumerate(shape)])
    if masked:
        weights.ravel()[0] = weights.size == 1
    weights = keras.ops.convert_to_tensor(weights.astype("float32"))
    expected, actual = (
        keras.ops.convert_to_numpy(third_order(function, x))
        for function in (
            lambda x: formula(x, axes, weights),
            lambda x: ops.normalize(x, axes, 1e-2, weights=weights if masked else None)[0],
        )
    )
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    "dtype", ["float64"] * (BACKEND != "jax") + ["mixed_float16", "mixed_bfloat16"]
)
def test_dtypes_of_layers_are_the_plain_ones(dtype):
    x = np.random.default_rng(0).standard_normal((4, 3, 3, 8))
    for layer in (
        keras_norm.BatchNormalization(dtype=dtype),
        keras_norm.LayerNormalization(dtype=dtype),
        keras_norm.GroupNormalization(2, dtype=dtype),
    ):
        inputs = keras.ops.cast(x, layer.compute_dtype)
        found = []
        for enabled in (True, False):
            kernels.set_enabled(enabled)
            y = layer(inputs, training=True)
            assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
            is_16_bits = dtype != "float64"
            found.append(
                keras.ops.convert_to_numpy(keras.ops.cast(y, "float32") if is_16_bits else y)
            )
        np.testing.assert_allclose(*found, atol=2e-2 if is_16_bits else 1e-12)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(("shape", "axes", "spanned"), [
    ((6, 5, 4), (0, 1), (2,)),
    ((1, 5, 4), (0, 1), (2,)),
    ((1, 4), (0,), (1,)),
    ((6, 5, 4), (2,), (2,)),
    ((6, 5, 4), (1, 2), (2,)),
])  # fmt: skip
def test_what_is_zero_throughout_has_derivatives(shape, axes, spanned, compiled):
    *arrays, cotangent = problem(shape, spanned)
    arrays[0][0], arrays[0][..., 0] = 0, 0
    expected, actual = (
        all_orders(lambda *a, f=f: f(a[0], axes, 1e-2, *a[1:])[0], arrays, cotangent, compiled)
        for f in (plain.normalize, ops.normalize)
    )
    assert np.isfinite(np.concatenate([v.ravel() for v in expected])).all()
    assert_close(actual, expected)


@pytest.mark.parametrize(("shape", "axes"), [((1000, 4), (0,)), ((3, 50, 4), (1, 2))])
def test_squares_may_overflow(shape, axes):
    x = (1e18 * (1 + 0.01 * np.random.default_rng(0).standard_normal(shape))).astype("float32")
    y = keras.ops.convert_to_numpy(ops.normalize(keras.ops.convert_to_tensor(x), axes, 1e-5)[0])
    x = x.astype("float64")
    expected = (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)
    np.testing.assert_allclose(y, expected, atol=2e-6)


@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize(("shape", "axes", "spanned"), [
    ((9, 4), (0,), (1,)),
    ((300, 4), (0,), (1,)),
    ((5, 3, 20, 4), (0, 1, 2), (3,)),
    ((5, 4, 3), (0, 2), (1,)),
    ((2, 3, 7), (2,), (2,)),
    ((2, 3, 2, 6), (1, 3), (2, 3)),
])  # fmt: skip
def test_16_bits_are_the_plain_function(shape, axes, spanned, compiled):
    x, gamma, beta, cotangent = problem(shape, spanned, mean=3.0)
    arrays, cotangent = (x.astype("float16"), gamma, beta), cotangent.astype("float16")
    expected, actual = (
        all_orders(lambda *a, f=f: f(a[0], axes, 1e-2, *a[1:])[0], arrays, cotangent, compiled)
        for f in (plain.normalize, ops.normalize)
    )
    # The gradient of the input is rounded to 2^-11 before it is squared for the second ones.
    assert_close(actual, expected, tolerance=2e-3)


@pytest.mark.parametrize("mean", [0.0, 1e5])
@pytest.mark.parametrize(("shape", "axis"), [((6, 4), 1), ((3, 5, 4), 2), ((3, 4, 5), 1)])
def test_inference_is_the_plain_function(shape, axis, mean, monkeypatch):
    if BACKEND == "torch":
        monkeypatch.setattr("keras_norm.kernels.torch.FEWEST_ELEMENTS", 0)
    x, gamma, beta, g = problem(shape, (axis,), mean)
    moments = ops.Moments(
        keras.ops.ones(()), keras.ops.convert_to_tensor(gamma + mean), None,
        keras.ops.convert_to_tensor(gamma))  # fmt: skip
    expected, actual = (
        all_orders(lambda *a, f=f: f(a[0], moments, 1e-2, *a[1:]), (x, gamma, beta), g)
        for f in (plain.standardize, ops.standardize)
    )
    assert_close(actual, expected)
    x, gamma, beta = map(keras.ops.convert_to_tensor, (x, gamma, beta))
    with without_gradients():
        y = ops.standardize(x, moments, 1e-2, gamma, beta)
    assert_close([keras.ops.convert_to_numpy(y)], expected[:1])


def without_gradients():
    """Returns a context in which no gradients are recorded, as in a model that predicts."""
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def test_a_function_switches_them_off(monkeypatch):
    x = keras.ops.ones((2, 3))
    key = "normalize", BACKEND, ops.Problem.of(x, (0,), 1e-2, None, None).device
    executor = registry.Executor(lambda *a: ("kernel", None), frozenset())
    monkeypatch.setitem(registry._executors, key, [executor])
    assert ops.normalize(x, (0,), 1e-2) == ("kernel", None)
    kernels.set_enabled(False)
    assert not kernels.is_enabled()
    assert keras.ops.shape(ops.normalize(x, (0,), 1e-2)[0]) == (2, 3)


@pytest.mark.slow
def test_executors_are_registered_at_import():
    code = (
        "import keras_norm; from keras_norm.ops import registry; "
        "print(sorted({key[:2] for key in registry._executors}))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"('normalize', '{BACKEND}')" in result.stdout


def test_sets_of_one_element():
    x = keras.ops.convert_to_tensor(np.float32([1, 2, 3]))
    y, found = ops.normalize(x, [], 1e-2)
    assert keras.ops.convert_to_numpy(y).tolist() == [0, 0, 0]
    assert float(found.count) == 1


@pytest.mark.slow
def test_an_environment_variable_switches_them_off_and_nobody_needs_the_folder(tmp_path):
    folder = pathlib.Path(keras_norm.__file__).parent
    shutil.copytree(folder, tmp_path / "keras_norm", ignore=shutil.ignore_patterns("kernels"))
    code = (
        "import keras_norm, sys; from keras_norm import ops; import keras\n"
        "print(keras_norm.__file__, keras.ops.convert_to_numpy(\n"
        "    ops.normalize(keras.ops.ones((2, 3)), (0,), 1e-2)[0]).sum())\n"
        "k = sys.modules.get('keras_norm.kernels'); print(k and k.is_enabled())"
    )
    for place, enabled in ((tmp_path, "None"), (folder.parent, "False")):
        environment = {**os.environ, "PYTHONPATH": str(place), "KERAS_NORM_KERNELS": "0"}
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=place
        )
        assert result.returncode == 0, result.stderr
        lines = result.stdout.split("\n")
        assert lines[0] == f"{place / 'keras_norm' / '__init__.py'} 0.0"
        assert lines[1] == enabled


def test_moments_have_their_own_dtype_whatever_that_of_gamma():
    x = keras.ops.cast(np.random.default_rng(0).standard_normal((6, 4)), "bfloat16")
    gamma = keras.ops.ones((1, 4), "bfloat16")
    y, found = ops.normalize(x, (0,), 1e-2, gamma)
    dtypes = [keras.backend.standardize_dtype(v.dtype) for v in (y, *found)]
    assert dtypes == ["bfloat16", *["float32"] * 4]
