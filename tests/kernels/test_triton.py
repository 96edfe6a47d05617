"""What only the Triton executors have, in Triton's interpreter: `nox -s triton`."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

if os.environ.get("KERAS_NORM_KERNELS") != "triton":
    pytest.skip("nox -s triton runs these", allow_module_level=True)

import torch

import keras_norm
from keras_norm import ops
from keras_norm.kernels.triton import functions, launches, native, tiles
from tests import oracle, plain
from tests.kernels.derivatives import all_orders, third_order
from tests.kernels.test_kernels import CASES, answer, problem

SMALL_TILES = {"TILE_ELEMENTS": 32, "LARGEST_SET": 8, "CHANNELS_IN_TILE": 4, "PROGRAMS": 5}


@pytest.fixture
def small_tiles(monkeypatch):
    """Divides small inputs as large ones are: several programs, parts, steps and samples."""
    for name, value in SMALL_TILES.items():
        monkeypatch.setattr(tiles, name, value)


def compare(x, axes, gamma, beta, g, weights=None, tolerance=2e-6):
    """Asserts that output and gradients are those of float64."""
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, gamma, beta)]
    mask = None if weights is None else torch.tensor(weights)
    y, _ = ops.normalize(tensors[0], axes, 1e-3, *tensors[1:], mask)
    found = torch.autograd.grad(y, tensors, torch.tensor(g))
    expected = oracle.normalize(x, axes, 1e-3, gamma, beta, weights)[0]
    to_x, to_gamma, to_beta, scale = oracle.gradients(x, axes, g, 1e-3, gamma, weights)
    assert oracle.error(y.detach(), expected) < tolerance
    assert oracle.error(found[0], to_x, scale) < tolerance
    for actual, terms in zip(found[1:], (to_gamma, to_beta), strict=True):
        right, size = (oracle.sum_to(v, gamma.shape) for v in (terms, np.abs(terms)))
        assert oracle.error(actual, right, size) < tolerance


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("mean", [0.0, 1e5])
@pytest.mark.parametrize(("shape", "axes", "spanned"), CASES)
@pytest.mark.usefixtures("small_tiles")
def test_sets_that_are_divided(shape, axes, spanned, mean, is_masked):
    x, gamma, beta, g = problem(shape, spanned, mean)
    # Channels near and far from zero in one call.
    x[..., 0] -= np.float32(mean)
    weights = None
    if is_masked:
        sizes = [1 if axis in spanned else size for axis, size in enumerate(shape)]
        weights = np.random.default_rng(0).integers(0, 2, sizes).astype("float32")
        if mean:
            # Gradients are those of 0 in empty sets, where the data are far from it.
            weights[:] = 1
    compare(x, axes, gamma, beta, g, weights)


@pytest.mark.usefixtures("small_tiles")
def test_parts_are_many_enough_to_be_merged():
    form = launches_form((5, 3, 20, 4), (0, 1, 2), (3,))
    tile = tiles.tile_of_parts(form)
    divided = tiles.parts_of_moments(form, tile)
    assert tiles.tile_of_sets(form, 4) is None
    assert divided.parts > 1
    assert divided.steps > 1


def launches_form(shape, axes, spanned):
    from keras_norm.kernels.plan import plan

    x, gamma, beta, _ = map(torch.tensor, problem(shape, spanned))
    return plan(ops.Problem.of(x, axes, 1e-3, gamma, beta)).form


@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_a_set_that_drifts(mean, small_tiles):
    """The first tile is far from the others, and a part of it is all there is of some."""
    x, gamma, beta, g = problem((45, 4), (1,), mean)
    x[:7] += 50
    compare(x, (0,), gamma, beta, g)


@pytest.mark.parametrize("small", [False, True])
def test_padding_spoils_nothing(small, request):
    if small:
        request.getfixturevalue("small_tiles")
    x, gamma, beta, g = problem((3, 9, 4), (2,))
    weights = np.ones((3, 9, 1), "float32")
    weights[0, 5:], weights[1] = 0, 0
    spoilt = x.copy()
    spoilt[0, 6], spoilt[0, 7, 1], spoilt[1, 2] = np.nan, np.inf, -np.inf
    x[~np.isfinite(spoilt)] = 0
    results = []
    for data in (x, spoilt):
        tensors = [torch.tensor(v, requires_grad=True) for v in (data, gamma, beta)]
        y, _ = ops.normalize(tensors[0], (1, 2), 1e-3, *tensors[1:], torch.tensor(weights))
        results.append([y, *torch.autograd.grad(y, tensors, torch.tensor(g))])
    assert (results[1][1].numpy()[~np.isfinite(spoilt)] == 0).all()
    valid = weights[..., 0] > 0
    for a, b in zip(*results, strict=True):
        a, b = (v.detach().numpy() for v in (a, b))
        assert np.isfinite(b).all()
        if a.shape == x.shape:
            np.testing.assert_array_equal(a[valid], b[valid])


def test_every_run_has_the_same_bits(small_tiles):
    arrays = [torch.tensor(v) for v in problem((5, 3, 20, 4), (3,))]
    runs = []
    for _ in range(2):
        x, gamma, beta = (v.clone().requires_grad_() for v in arrays[:3])
        y, _ = ops.normalize(x, (0, 1, 2), 1e-3, gamma, beta)
        runs.append([y, *torch.autograd.grad(y, (x, gamma, beta), arrays[3])])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def test_nothing_waits_for_the_device(monkeypatch):
    def wait(self, *args):
        raise AssertionError("waits for the device")

    layers = keras_norm.GroupNormalization(2), keras_norm.LayerNormalization()
    x = torch.randn(3, 5, 4, requires_grad=True)
    for layer in layers:
        layer.build(x.shape)
    launch = launches._launch

    def launched(*arguments):
        # The interpreter itself reads tensors.
        with monkeypatch.context() as patch:
            patch.undo()
            launch(*arguments)

    monkeypatch.setattr(launches, "_launch", lambda *arguments: None)
    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, wait)
    for layer in layers:
        layer(x).sum().backward()


def test_offsets_have_64_bits():
    """Elements 2^31 and more apart, in memory that is not touched in between."""
    base = torch.empty(2**31 + 64, dtype=torch.float16)
    x = base.as_strided((3, 4, 4), (2**30, 4, 1))
    values = np.random.default_rng(0).standard_normal((3, 4, 4)).astype("float16")
    x.copy_(torch.tensor(values))
    for axes in ((0, 1), (1, 2), (2,)):
        y, _ = ops.normalize(x, axes, 1e-3)
        expected = oracle.normalize(values, axes, 1e-3)[0]
        assert oracle.error(y, expected) < 1e-3


@pytest.mark.parametrize(("axes", "spanned"), [((0, 1), (2,)), ((2,), (2,))])
def test_inputs_that_lie_otherwise_in_memory(axes, spanned):
    x, gamma, beta, g = problem((6, 5, 4), spanned, 1e4)
    expected = plain.normalize(*(torch.tensor(x), axes, 1e-3), *map(torch.tensor, (gamma, beta)))[0]
    wide = torch.zeros(12, 5, 4)
    wide[::2] = torch.tensor(x)
    views = wide[::2], torch.tensor(x.transpose(2, 0, 1).copy()).permute(1, 2, 0)
    for view in views:
        view.requires_grad_()
        y, _ = ops.normalize(view, axes, 1e-3, *map(torch.tensor, (gamma, beta)))
        torch.testing.assert_close(y, expected, atol=2e-3, rtol=0)
        (dx,) = torch.autograd.grad(
            y, view, torch.tensor(g).transpose(0, 1).clone().transpose(0, 1)
        )
        to_x, *_, scale = oracle.gradients(x, axes, g, 1e-3, gamma)
        assert oracle.error(dx, to_x, scale) < 2e-6


def outcome(function):
    """Returns the error of a call, or where and of which shape its result is."""
    try:
        y = function()
    except (ValueError, RuntimeError, TypeError) as error:
        return type(error), str(error)
    return y.device, y.shape


def test_bad_input_is_the_plain_functions():
    x, gamma, beta, _ = map(torch.tensor, problem((5, 3, 4), (2,)))
    for gamma_of_bad in (gamma.to("meta"), gamma[..., :3]):
        expected, found = (
            outcome(lambda f=f, v=gamma_of_bad: f(x, (0, 1), 1e-3, v, beta)[0])
            for f in (plain.normalize, ops.normalize)
        )
        assert found == expected
    assert ops.normalize(x[:0], (0, 1), 1e-3, gamma, beta)[0].shape == (0, 3, 4)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.float8_e4m3fn])
def test_dtypes_that_the_kernels_lack_are_the_plain_functions(dtype, monkeypatch):
    x = torch.tensor(problem((5, 3, 4), (2,))[0]).to(dtype)
    asked = ops.Problem.of(x, (0, 1), 1e-3, None, None)
    assert functions.normalize(asked, x, None, None, None, None) is None
    layer = keras_norm.BatchNormalization()
    layer.build(x.shape)
    found = outcome(lambda: layer(x, training=True))
    monkeypatch.setattr(ops.registry, "_enabled", False)
    assert found == outcome(lambda: layer(x, training=True))


def test_what_is_kept_is_the_input_and_the_moments():
    x, gamma, beta, _ = map(torch.tensor, problem((40, 50, 4), (2,)))
    x.requires_grad_()
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ops.normalize(x, (0, 1), 1e-3, gamma, beta)
    assert sum(kept.values()) < 1.1 * x.nbytes


@pytest.mark.parametrize("has_gamma", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((6, 7, 4), 2), ((6, 4, 7), 1)])
def test_stored_statistics(shape, axis, has_gamma, small_tiles):
    x, gamma, beta, g = problem(shape, (axis,), 100.0)
    arrays = [x, gamma, beta] if has_gamma else [x]
    moments = ops.Moments(1, torch.tensor(beta + 100), None, torch.tensor(gamma))
    results = []
    for function in (plain.standardize, ops.standardize):
        tensors = [torch.tensor(v, requires_grad=True) for v in arrays]
        y = function(tensors[0], moments, 1e-3, *tensors[1:])
        results.append([y, *torch.autograd.grad(y, tensors, torch.tensor(g))])
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def test_stored_statistics_that_train_get_gradients():
    x, variance, mean, g = problem((6, 7, 4), (2,), 100.0)
    results = []
    for function in (plain.standardize, ops.standardize):
        tensors = [torch.tensor(v, requires_grad=True) for v in (x, mean + 100, variance)]
        y = function(tensors[0], ops.Moments(1, tensors[1], None, tensors[2]), 1e-3)
        results.append(torch.autograd.grad(y, tensors, torch.tensor(g)))
    for actual, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def test_torch_compile_takes_whole_layers():
    x = torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 0, 1, 0]] * 3).bool()
    for layer, options in (
        (keras_norm.LayerNormalization(reduction_axes=-1), {}),
        (keras_norm.GroupNormalization(2), {"mask": mask}),
    ):
        expected = layer(x, **options)
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda x, layer=layer, options=options: layer(x, **options),
            backend="aot_eager",
            fullgraph=True,
        )
        torch.testing.assert_close(compiled(x), expected)


@pytest.mark.parametrize("mean", [0.0, 1e5])
@pytest.mark.parametrize(("shape", "axes", "spanned"), [CASES[0], CASES[2], CASES[8], CASES[10]])
def test_native_operations_without_triton(shape, axes, spanned, mean, monkeypatch):
    x, gamma, beta, g = problem(shape, spanned, mean)
    monkeypatch.setattr("keras_norm.kernels.triton._module", native)
    given = [torch.tensor(v) for v in (x, gamma, beta)]
    _, found = answer(given[0], axes, *given[1:])
    expected = oracle.normalize(x, axes)
    assert oracle.error(found.variance, expected[2]) < 2e-6
    compare(x, axes, gamma, beta, g)
    # The plain functions compute what the executor declines.
    weights = np.ones([1 if axis in spanned else n for axis, n in enumerate(shape)], "float32")
    compare(x, axes, gamma, beta, g, weights)


@pytest.mark.parametrize("without_triton", [False, True])
@pytest.mark.parametrize(("shape", "axes"), [((6, 4), (0,)), ((3, 4), (1,)), ((2, 3, 4), (2,))])
def test_higher_derivatives(shape, axes, without_triton, monkeypatch):
    if without_triton:
        monkeypatch.setattr("keras_norm.kernels.triton._module", native)
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, *shape)).astype("float32")
    results = []
    for normalize in (plain.normalize, ops.normalize):

        def related(x, normalize=normalize):
            gamma = keras.ops.mean(x**2, list(range(len(shape) - 1)), keepdims=True)
            return normalize(x, axes, 1e-2, gamma)[0]

        third = third_order(lambda x, f=normalize: f(x, axes, 1e-2)[0], x)
        results.append([*all_orders(related, [x], g), third.detach().numpy()])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("missing", "warned"), [
    ("sys.modules['triton'] = None", False),
    ("import torch; del torch._C._len_torch_dispatch_stack", True),
])  # fmt: skip
def test_without_triton_native_operations_answer(missing, warned):
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        f"{missing}\n"
        "import keras_norm; from keras_norm.kernels import triton\n"
        "from keras_norm.ops import registry\n"
        "with warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always')\n"
        "    name = triton._executors().__name__\n"
        "print(name, len(registry.registered('normalize', 'cuda')), len(found))"
    )
    environment = {**os.environ, "KERAS_NORM_KERNELS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    expected = ["keras_norm.kernels.triton.native", "1", str(int(warned))]
    assert result.stdout.split() == expected, result.stderr


def test_executors_come_first():
    x = keras.ops.ones((3, 4))
    executors = ops.registry.registered("normalize", x.device.type)
    assert executors[0].run.__module__ == "keras_norm.kernels.triton"
    assert functions.DTYPES[0] == x.dtype
    assert answer(x, (0,)) is not None
