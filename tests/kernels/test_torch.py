"""Features of PyTorch: torch.func, compilation, memory formats, in-place changes, memory."""

import subprocess
import sys

import keras
import numpy as np
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("tests of the PyTorch kernel", allow_module_level=True)

import torch
from torch.fx.experimental.proxy_tensor import make_fx

import keras_norm
from benchmarks.on_torch import Temporaries
from keras_norm import ops
from keras_norm.kernels.torch import compiled
from tests import oracle, plain
from tests.kernels.test_kernels import answer
from tests.old_keras import COMPILES_WHOLE_LAYERS


def loss(x, normalize=ops.normalize):
    return (normalize(x, (0, 1), 1e-2)[0] * torch.arange(4.0)).pow(3).sum()


def plain_loss(x):
    return loss(x, plain.normalize)


@pytest.fixture
def x():
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("transform", [
    torch.func.grad,
    torch.func.hessian,
    lambda f: torch.func.vmap(f),
    lambda f: torch.func.vmap(torch.func.grad(f)),
    lambda f: lambda x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    lambda f: lambda x: torch.autograd.functional.jvp(f, x, x.cos())[1],
    lambda f: lambda x: torch.autograd.functional.hessian(f, x, vectorize=True),
    lambda f: lambda x: torch.autograd.functional.jacobian(
        lambda x: torch.stack([f(x), f(x * x)]), x, vectorize=True
    ),
    lambda f: lambda x: make_fx(lambda x: f(x))(x)(x),
])  # fmt: skip
def test_transforms(x, transform):
    x = torch.stack([x, x + 1])
    if "vmap" not in transform.__code__.co_names:
        x = x[0]
    torch.testing.assert_close(transform(loss)(x), transform(plain_loss)(x), rtol=1e-4, atol=1e-4)


def test_forward_mode(x):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x.cos())
        found, expected = (
            torch.autograd.forward_ad.unpack_dual(f(dual)) for f in (loss, plain_loss)
        )
    torch.testing.assert_close(found.tangent, expected.tangent)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [
    lambda: keras_norm.GroupNormalization(2),
    lambda: keras_norm.InstanceNormalization(),
    lambda: keras_norm.LayerNormalization(),
    lambda: keras_norm.LayerNormalization(reduction_axes=-1),
    lambda: keras_norm.LayerNormalization(center=False, scale=False),
    lambda: keras_norm.RMSNormalization(),
    lambda: keras_norm.BatchNormalization(),
    lambda: keras_norm.BatchNormalization(renorm=True),
])  # fmt: skip
def test_compile(x, make, training, backend):
    layer, other = make(), make()
    layer.build(x.shape), other.build(x.shape)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: layer(x, training=training),
        backend=backend,
        fullgraph=COMPILES_WHOLE_LAYERS,
    )
    # Far from zero, and as it lies in memory.
    for inputs in (x, x + 100, x.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
        a, b = (inputs.detach().requires_grad_() for _ in range(2))
        y, expected = compiled(a), other(b, training=training)
        torch.testing.assert_close(y, expected)
        y.pow(3).sum().backward(), expected.pow(3).sum().backward()
        # Two roundings of the upstream gradient: 30,000 where renormalization keeps a mean.
        upstream = 3 * expected.detach().square().max().item()
        torch.testing.assert_close(a.grad, b.grad, rtol=1.3e-6, atol=max(1e-5, 2e-7 * upstream))
    for v, w in zip(layer.weights, other.weights, strict=True):
        torch.testing.assert_close(v.value, w.value)
        torch.testing.assert_close(v.value.grad, w.value.grad)


@pytest.mark.parametrize("axes", [(0, 1), (1,), (1, 2), (2,)])
def test_the_executor_answers_in_compiled_graphs(x, axes, monkeypatch):
    is_exporting = torch.compile(lambda x: x * torch.compiler.is_exporting(), backend="eager")
    if is_exporting(torch.ones(())):
        pytest.skip("PyTorch 2.11 takes every compiled graph for an exported one")
    answers = []
    normalize = compiled.normalize

    def recorded(*arguments):
        found = normalize(*arguments)
        answers.append(found is not None)
        return found

    monkeypatch.setattr(compiled, "normalize", recorded)
    torch._dynamo.reset()
    torch.compile(lambda x: ops.normalize(x, axes, 1e-2)[0], backend="eager", fullgraph=True)(x)
    assert answers == [True]


@pytest.mark.parametrize("axes", [(0, 1), (1,), (1, 3), (3,)])
def test_empty_batches_in_compiled_graphs(axes):
    torch._dynamo.reset()
    gamma = torch.ones(1, 1, 2, 4)

    def function(x):
        return ops.normalize(x, axes, 1e-2, gamma)[0]

    compiled_function = torch.compile(function, backend="eager", fullgraph=True)
    assert compiled_function(torch.zeros(0, 3, 2, 4)).shape == (0, 3, 2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.0, 1e5])
@pytest.mark.parametrize(("shape", "axes", "spanned"), [
    ((400_000, 8), (0,), (1,)),
    ((2, 3, 200_000), (0, 2), (1,)),
    ((4, 9000, 8, 4), (1, 3), (2, 3)),
])  # fmt: skip
def test_the_compiler_keeps_the_promised_accuracy(shape, axes, spanned, mean):
    rng = np.random.default_rng(0)
    x, upstream = (np.float32(rng.standard_normal(shape) + m) for m in (mean, 0))
    sizes = [size if axis in spanned else 1 for axis, size in enumerate(shape)]
    gamma, beta = (np.float32(rng.standard_normal(sizes)) for _ in range(2))
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, gamma, beta)]

    def function(x, gamma, beta):
        return ops.normalize(x, axes, 1e-3, gamma, beta)[0]

    torch._dynamo.reset()
    y = torch.compile(function, fullgraph=True)(*tensors)
    found = torch.autograd.grad(y, tensors, torch.tensor(upstream))
    assert oracle.error(y.detach(), oracle.normalize(x, axes, 1e-3, gamma, beta)[0]) < 2e-6
    to_x, *parameters, scale = oracle.gradients(x, axes, upstream, 1e-3, gamma)
    assert oracle.error(found[0], to_x, scale) < 2e-6
    others = tuple(axis for axis in range(len(shape)) if axis not in spanned)
    for actual, expected in zip(found[1:], parameters, strict=True):
        assert oracle.error(actual, expected.sum(others, keepdims=True)) < 2e-6


@pytest.mark.slow
def test_models_that_keras_compiles_train_as_others():
    x = np.random.default_rng(0).standard_normal((8, 5, 4)).astype("float32")
    found = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(0)
        layers = keras_norm.BatchNormalization(), keras_norm.GroupNormalization(2)
        model = keras.Sequential([keras.Input((5, 4)), keras.layers.Dense(4), *layers])
        model.compile("sgd", "mse", jit_compile=jit_compile)
        model.fit(x, np.ones_like(x), batch_size=4, epochs=2, shuffle=False, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_fake_and_traced_tensors_decline(x):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        assert answer(mode.from_tensor(x), (0, 1)) is None
    assert answer(x.to("meta"), (0, 1)) is None


@pytest.mark.parametrize("axes", [(0, 1), (1,), (1, 2), (2,)])
def test_an_input_that_lies_otherwise_in_memory(x, axes):
    parameters = torch.rand(2, 1, 1, 4)

    def results(x):
        x = x.detach().requires_grad_()
        y = ops.normalize(x, axes, 1e-2, *parameters)[0]
        return y, *torch.autograd.grad(y.pow(3).sum(), x)

    other = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    sliced = torch.cat([x, x], 2)[:, :, :4]
    expected = results(x)
    assert expected[0].stride() == expected[1].stride() == x.stride()
    for given in (other, sliced):
        torch.testing.assert_close(results(given), expected)
    if axes == (0, 1):
        assert results(other)[0].stride() == other.stride()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_outputs_can_be_changed_in_place(x, order):
    back = sorted(range(3), key=order.__getitem__)
    for axes in ((0, 1), (1,), (1, 2), (2,)):
        a = x.permute(order).contiguous().permute(back).requires_grad_()
        y = ops.normalize(a, axes, 1e-2)[0]
        torch.nn.functional.relu(y, inplace=True).sum().backward()
        assert a.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_input_and_the_moments_are_kept(dtype):
    x = torch.randn(8, 50, 64, dtype=dtype, requires_grad=True)
    for axes, shape in (((0, 1), (1, 1, 64)), ((1, 2), (1, 1, 64)), ((2,), (1, 1, 64))):
        kept = {}

        def pack(t, kept=kept):
            kept[t.data_ptr()] = t.nbytes
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            ops.normalize(x, axes, 1e-2, torch.ones(shape), torch.zeros(shape))
        assert sum(kept.values()) <= 1.1 * x.nbytes


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("kind", [keras_norm.LayerNormalization, keras_norm.BatchNormalization])
def test_a_recomputation_saves_as_many_tensors(x, kind, mean):
    layer = kind()
    layer.build(x.shape)
    a, b = ((x + mean).requires_grad_() for _ in range(2))

    def function(x):
        return layer(x, training=True)

    function(a).pow(3).sum().backward()
    # Raises if the numbers differ.
    torch.utils.checkpoint.checkpoint(function, b, use_reentrant=False).pow(3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("shape", [(1, 1, 4), (1, 3, 1)])
def test_stored_moments_get_gradients(x, shape, mean, monkeypatch):
    monkeypatch.setattr("keras_norm.kernels.torch.FEWEST_ELEMENTS", 0)

    def gradients(function):
        m, v, gamma, beta = (torch.ones(shape, requires_grad=True) for _ in range(4))
        moments = ops.Moments(torch.ones(()), m + mean, None, v + 0.5)
        a = x.clone().requires_grad_()
        y = function(a, moments, 1e-2, gamma, beta)
        return torch.autograd.grad(y.pow(3).sum(), [a, gamma, beta, m, v])

    # Powers of numbers around 100 add up to 1e9.
    for found, expected in zip(*map(gradients, (ops.standardize, plain.standardize)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rows", "is_taken"), [(4095, False), (4096, True)])
def test_stored_statistics_of_small_inputs_are_declined(rows, is_taken):
    x, stored = torch.zeros(rows, 64), torch.ones(1, 64)
    moments = ops.Moments(1, stored, None, stored)
    asked = ops.Problem.of(x, (0,), 1e-2, None, None)
    found = ops.registry.answer("standardize", asked, x, moments, None, None)
    assert (found is not None) == is_taken


@pytest.mark.parametrize("mean", [0.0, 2.9, 1e5])
@pytest.mark.parametrize(("shape", "axes", "mask"), [
    ((16, 700, 64), (0, 1), (16, 700, 1)),
    ((6, 700, 64), (1, 2), (6, 700, 1)),
    ((6, 64, 700), (0, 2), (6, 1, 700)),
    ((6, 64, 700), (1, 2), (6, 1, 700)),
    ((600, 64), (1,), (600, 1)),
])  # fmt: skip
def test_masks_keep_the_promised_accuracy(shape, axes, mask, mean):
    rng = np.random.default_rng(0)
    x, upstream = (rng.standard_normal(shape).astype("float32") + m for m in (mean, 0))
    x, weights = np.float32(x), np.float32(rng.uniform(size=mask) < 0.5)
    # Padding may hold anything.
    x = np.where(weights > 0, x, np.float32(1e4))
    x[np.broadcast_to(weights == 0, shape) & (rng.uniform(size=shape) < 0.01)] = np.nan
    a = torch.tensor(x, requires_grad=True)
    y = ops.normalize(a, axes, 1e-5, weights=torch.tensor(weights))[0]
    (dx,) = torch.autograd.grad(y, a, torch.tensor(upstream) * torch.tensor(weights))
    expected, *_ = oracle.normalize(np.nan_to_num(x), axes, 1e-5, weights=weights)
    to_x, *_, scale = oracle.gradients(
        np.nan_to_num(x), axes, upstream * weights, 1e-5, weights=weights
    )
    valid = np.broadcast_to(weights > 0, shape)
    assert oracle.error(y.detach().numpy()[valid], expected[valid]) < 2e-6
    assert oracle.error(dx.numpy(), to_x, scale) < 2e-6


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("axes", [(0, 1), (2,)])
def test_nan_in_padding_of_a_compiled_graph(x, axes, centered):
    weights = torch.tensor([1.0, 0.0, 1.0])[None, :, None]

    def gradient(x):
        parameters = torch.ones(1, 1, 4), torch.zeros(1, 1, 4)
        y, _ = ops.normalize(x, axes, 1e-2, *parameters, weights, centered=centered)
        return torch.autograd.grad((y * weights).pow(3).sum(), x)[0]

    clean = gradient(x.requires_grad_())
    spoilt = torch.where(weights > 0, x, torch.nan).detach().requires_grad_()
    torch.testing.assert_close(
        torch.compile(gradient, backend="aot_eager")(spoilt), clean, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("given_mask", [False, True])
@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (2,)])
def test_the_output_and_the_gradient_are_all_that_is_allocated(axes, given_mask):
    x = torch.randn(4, 1024, 64, requires_grad=True)
    weights = (torch.rand(4, 1024, 1) > 0.5).float() if given_mask else None
    with Temporaries(x.numel()) as temporaries:
        y, _ = ops.normalize(x, axes, 1e-2, torch.ones(1, 1, 64), torch.zeros(1, 1, 64), weights)
        torch.autograd.grad(y, x, x.detach())
    assert temporaries.count == 2


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    "del torch._C._are_functorch_transforms_active",  # a private symbol is missing
    "import torch.fx.experimental.symbolic_shapes as s; del s.has_static_value",
])  # fmt: skip
def test_without_a_symbol_the_plain_function_answers(change):
    code = (
        f"import torch, warnings; {change}\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always'); import keras_norm\n"
        "print(sum('fast implementation' in str(w.message) for w in caught))\n"
        "from keras_norm import ops; from keras_norm.ops import registry\n"
        "print(len(registry.registered('normalize', 'cpu')))\n"
        "print(ops.normalize(torch.tensor([[1.0, 3.0]]), (1,), 1e-9)[0].tolist())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split("\n")[:3] == ["1", "0", "[[-1.0, 1.0]]"], result.stderr
