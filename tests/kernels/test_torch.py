"""What only PyTorch has: torch.func, compilation, memory formats, in-place changes, memory."""

import keras
import pytest

if keras.backend.backend() != "torch":
    pytest.skip("tests of the PyTorch kernel", allow_module_level=True)

import torch
from torch.fx.experimental.proxy_tensor import make_fx

import keras_norm
from keras_norm import ops
from keras_norm.kernels import torch as kernel
from tests import plain
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
def test_compile(x, backend):
    layer = keras_norm.GroupNormalization(2)
    expected = layer(x)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: layer(x), backend=backend, fullgraph=COMPILES_WHOLE_LAYERS)
    torch.testing.assert_close(compiled(x), expected)


def test_fake_and_traced_tensors_decline(x):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        assert answer(mode.from_tensor(x), (0, 1)) is None
    assert answer(x.to("meta"), (0, 1)) is None


def test_an_input_that_lies_otherwise_in_memory(x):
    other = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    y = kernel.normalize(other, (0, 1), 1e-2)[0]
    assert y.stride() == other.stride()
    torch.testing.assert_close(y, kernel.normalize(x, (0, 1), 1e-2)[0])
    sliced = torch.cat([x, x], 2)[:, :, :4]
    torch.testing.assert_close(kernel.normalize(sliced, (0, 1), 1e-2)[0], y)


def test_outputs_can_be_changed_in_place(x):
    for axes in ((0, 1), (1,), (1, 2), (2,)):
        a = x.clone().requires_grad_()
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


def test_remat(x):
    layer = keras_norm.LayerNormalization()
    layer.build(x.shape)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    layer(a).pow(3).sum().backward()
    torch.utils.checkpoint.checkpoint(layer, b, use_reentrant=False).pow(3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
