"""The shared table of problems against float64 NumPy, on every executor and in every mode.

The terminal summary lists the problems that no executor takes.
"""

import keras
import numpy as np
import pytest

from keras_norm import kernels, ops
from keras_norm.ops import registry
from tests import gradients, old_keras, oracle
from tests.kernels import modes, problems

# Of values in the 2-norm: the contract's figure, the rounding of 16 bits, and what is left of
# float64 after the cancellation of a mean of 10,000 deviations.
TOLERANCES = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.5e-2, "float64": 1e-11}


@pytest.fixture(autouse=True)
def _kernels_on():
    before = kernels.is_enabled()
    kernels.set_enabled(True)
    yield
    kernels.set_enabled(before)


@pytest.fixture
def declined(monkeypatch, record_property, request):
    """Records each problem of the test that no executor takes, for the terminal summary."""
    answer = registry.answer

    def recorded(function, problem, *tensors):
        found = answer(function, problem, *tensors)
        if found is None:
            record_property("declined", request.node.callspec.id)
        return found

    # A function that a tracer compiles is to be the package's own.
    if request.node.callspec.params.get("mode") != "compiled":
        monkeypatch.setattr(registry, "answer", recorded)


def function_of(case, given):
    """Returns the function from x, gamma and beta, as far as there are, to the output."""
    weights = None if given.weights is None else keras.ops.convert_to_tensor(given.weights)

    def function(x, *parameters):
        parameters = list(parameters)
        gamma = None if given.gamma is None else parameters.pop(0)
        beta = None if given.beta is None else parameters.pop(0)
        y, _ = ops.normalize(
            x,
            given.axes,
            problems.EPSILON,
            gamma,
            beta,
            weights,
            centered=case.kind != "rms",
            with_moments=case.kind == "batch",  # as in the layers
        )
        return y

    return function


def tensors_of(given):
    return [v for v in (given.x, given.gamma, given.beta) if v is not None]


@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize("case", problems.CASES, ids=str)
def test_values_and_gradients(case, mode, declined):
    if mode == "compiled" and case.rank not in (3, 4):
        pytest.skip("PyTorch takes a second to compile a problem: ranks 3 and 4 are enough")
    given = problems.arrays(case)
    arrays = tensors_of(given)
    dtypes = [case.dtype] + [str(v.dtype) for v in arrays[1:]]
    y, *found = modes.vjp(
        function_of(case, given), arrays, dtypes, given.upstream, mode, case.sizes == "open"
    )
    expected = problems.expected(case, given)
    tolerance = TOLERANCES[case.dtype]
    assert oracle.error(y, expected.y) < tolerance
    for actual, gradient, scale in zip(found, expected.gradients, expected.scales, strict=True):
        assert oracle.error(actual, gradient, scale) < tolerance


@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize(
    "case",
    [c for c in problems.CASES if c.kind == "batch" and c.dtype == "float32" and c.rank < 5],
    ids=str,
)
def test_replicas(case, mode, declined):
    """Half of a batch whose other half is elsewhere, with another mean, stands for a replica."""
    if mode == "compiled" and not old_keras.COMPILES_WHOLE_LAYERS:
        pytest.skip("the plain functions answer, and this Keras cannot be traced in one graph")
    given = problems.arrays(case)
    other = problems.arrays(case)
    other = other._replace(
        x=np.float32(other.x * 0.5 + 1e3), upstream=np.zeros_like(other.upstream)
    )
    tensor = keras.ops.convert_to_tensor
    weights = None if given.weights is None else tensor(given.weights)
    elsewhere = ops.moments(tensor(other.x), given.axes, weights)

    def combine(local):
        stacked = []
        for here, there in zip(local, elsewhere, strict=True):
            shape = tuple(there.shape) or (1,) * given.x.ndim
            stacked.append(keras.ops.stack([keras.ops.reshape(v, shape) for v in (here, there)]))
        return ops.Moments(*(v[0] for v in ops.merge(ops.Moments(*stacked), [0])))

    def function(x, *parameters):
        parameters = list(parameters)
        gamma = None if given.gamma is None else parameters.pop(0)
        beta = None if given.beta is None else parameters.pop(0)
        return ops.normalize(
            x, given.axes, problems.EPSILON, gamma, beta, weights, combine=combine
        )[0]

    arrays = tensors_of(given)
    dtypes = ["float32"] * len(arrays)
    y, *found = modes.vjp(function, arrays, dtypes, given.upstream, mode)
    whole = given._replace(
        x=np.concatenate([given.x, other.x]),
        upstream=np.concatenate([given.upstream, other.upstream]),
        weights=None if given.weights is None else np.concatenate([given.weights] * 2),
    )
    expected = problems.expected(case, whole)
    half = len(given.x)
    assert oracle.error(y, expected.y[:half]) < TOLERANCES["float32"]
    assert oracle.error(found[0], expected.gradients[0][:half], expected.scales[0]) < 2e-6
    for actual, gradient, scale in zip(
        found[1:], expected.gradients[1:], expected.scales[1:], strict=True
    ):
        assert oracle.error(actual, gradient, scale) < 2e-6


@pytest.mark.parametrize("mode", modes.MODES)
@pytest.mark.parametrize("masked", [1, 2], ids=["samples", "positions"])
def test_replicas_without_data(masked, mode, declined):
    """All samples, or positions, of all replicas are padding, which holds numbers that are left."""
    if mode == "compiled" and not old_keras.COMPILES_WHOLE_LAYERS:
        pytest.skip("the plain functions answer, and this Keras cannot be traced in one graph")
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(3, 2, (2, 4, 5, 6)).astype("float32")
    gamma, beta = rng.normal(size=(2, 1, 1, 6)).astype("float32")
    weights = keras.ops.zeros((4, 5, 1)[:masked] + (1,) * (3 - masked))

    def function(x, gamma, beta):
        # The union of nothing with nothing.
        return ops.normalize(
            x, [0, 1], problems.EPSILON, gamma, beta, weights, combine=lambda local: local
        )[0]

    arrays = [x, gamma, beta]
    y, *found = modes.vjp(function, arrays, ["float32"] * 3, upstream, mode)
    np.testing.assert_array_equal(y, np.broadcast_to(beta, x.shape))
    for gradient in found[:2]:
        assert not np.any(gradient)
    assert oracle.error(found[2], oracle.sum_to(np.float64(upstream), beta.shape)) < 2e-6


@pytest.mark.parametrize(
    "case", [case for case in problems.CASES if case.dtype == "float32"][::3], ids=str
)
def test_second_gradients(case):
    """A gradient of a gradient, against central differences of the float64 formula."""
    given = problems.arrays(case)
    # Differences of a float64 formula keep no digits of data at 10,000 deviations.
    given = given._replace(x=np.float32(given.x - np.round(given.x)))
    rng = np.random.default_rng(1)
    direction = rng.standard_normal(given.x.shape).astype("float32")
    *found, to_upstream = gradients.gradient_of_gradient(
        function_of(case, given), tensors_of(given), given.upstream, direction
    )
    names = ["x"] + [name for name in ("gamma", "beta") if getattr(given, name) is not None]
    for name, actual in [*zip(names, found, strict=True), ("upstream", to_upstream)]:
        if name == "beta":
            assert not np.any(actual)  # the gradient to x does not depend on it
            continue
        line = rng.standard_normal(getattr(given, name).shape)
        values = [
            (direction * problems.expected(case, _moved(given, name, step * line)).gradients[0])
            for step in (1e-5, -1e-5)
        ]
        slope = (values[0] - values[1]) / 2e-5
        # Central differences are good to 1e-9, float32 second gradients to some 1e-6 of what they
        # add up.
        assert abs((actual * line).sum() - slope.sum()) < 1e-5 * np.abs(slope).sum()


def _moved(given, name, step):
    return given._replace(**{name: getattr(given, name).astype("float64") + step})


@pytest.mark.parametrize(
    "case", [case for case in problems.CASES if case.dtype == "float32"][::5], ids=str
)
def test_forward_mode_and_batches(case):
    """Along a tangent, and over a batch of two inputs, as far as the backend has functions."""
    given = problems.arrays(case)
    gamma, beta = given.gamma, given.beta
    parameters = [keras.ops.convert_to_tensor(v) for v in (gamma, beta) if v is not None]
    function = function_of(case, given)
    tangent, y = modes.forward_and_batched(
        lambda x: function(x, *parameters), given.x, given.upstream
    )
    # A set's Jacobian without gamma is symmetric: its product with u is the gradient for u.
    plain = problems.expected(case, given._replace(gamma=None))
    scale = 1.0 if gamma is None else gamma
    if given.weights is None or case.kind in ("channels", "rms"):
        assert oracle.error(tangent, plain.gradients[0] * scale, plain.scales[0]) < 2e-6
    for actual, factor in zip(keras.ops.convert_to_numpy(y), (1, 2), strict=True):
        expected = problems.expected(case, given._replace(x=factor * given.x))
        assert oracle.error(actual, expected.y) < 2e-6
