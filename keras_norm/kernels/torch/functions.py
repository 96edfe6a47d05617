"""The kernels: what they take, and their derivatives."""

# Parts of classes that are put together are no whole classes to a type checker.
# mypy: disable-error-code="attr-defined"

from typing import Any

import torch

from keras_norm import ops
from keras_norm.kernels.torch.layout import layout_of
from keras_norm.kernels.torch.sets import Channels, is_exact
from keras_norm.ops import registry

HALF = torch.float16, torch.bfloat16


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    axes, epsilon = problem.axes, problem.epsilon
    if not _suit(x, gamma, beta):
        return None
    layout = layout_of(x, axes, gamma, beta)
    if layout is None:
        return None
    # PyTorch would keep what 16 bits are converted to.
    is_own = not layout.sets.is_differentiable or x.dtype in HALF
    is_own = is_own and _needs_gradient(x, gamma, beta)
    function: Any = _Normalize.apply if is_own else _normalized
    y, *moments = function(*layout.views(x, gamma, beta), layout.sets, epsilon)
    y = layout.unview(y)
    return y, layout.moments(*moments, epsilon) if problem.moments else None


def standardize(problem, x, moments, gamma, beta):
    """Solves a problem of `keras_norm.ops.standardize`, for constant moments of channels."""
    epsilon = problem.epsilon
    mean, variance = moments.shift, moments.variance
    if moments.residual is not None or x.dtype in HALF or not _suit(x, mean, variance, gamma, beta):
        return None
    if mean.requires_grad or variance.requires_grad or mean.shape != variance.shape:
        return None
    axes = tuple(axis for axis, size in enumerate(mean.shape) if size == 1)
    layout = layout_of(x, axes, mean if gamma is None else gamma, beta)
    if layout is None or not isinstance(layout.sets, Channels) or not layout.sets.are_channels:
        return None
    moments = mean.reshape(1, -1), variance.reshape(1, -1)
    arguments = *layout.views(x, gamma, beta), *moments, layout.sets, epsilon
    function = _Standardize.apply if _needs_gradient(x, gamma, beta) else _standardized
    return layout.unview(function(*arguments)[0])


def _suit(*tensors):
    """Returns whether a kernel may be given these tensors, here and now."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _is_transformed():
        return False
    # Whoever watches each operation may not let it look at numbers: make_fx, for one.
    if torch._C._len_torch_dispatch_stack() > 0:
        return False
    first = tensors[0]
    dtype = torch.float32 if first.dtype in HALF else first.dtype
    for tensor in tensors:
        if tensor is not None and not (
            type(tensor) in (torch.Tensor, torch.nn.Parameter)
            and tensor.device.type == "cpu"
            and (tensor.dtype == dtype or tensor is first)
        ):
            return False
    return first.numel() > 0


def _wide(x):
    return x.float() if x.dtype in HALF else x


def _is_transformed():
    return (
        torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    )


def _has_plain_backward(gradient):
    """Returns whether a backward pass is differentiated in turn, or takes a batch of gradients."""
    is_batch = torch._C._functorch.is_legacy_batchedtensor(gradient)
    return is_batch or torch.is_grad_enabled() or _is_transformed()


def _needs_gradient(*tensors):
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def _normalized(x, gamma, beta, sets, epsilon):
    """Returns output, shift, mean of what is left, variance and 1 / sqrt(variance + epsilon).

    Shift and variance are None for 0 and for what the last follows from.
    """
    wide = x if sets.takes_16_bits else _wide(x)
    y, *moments = sets.normalize(wide, gamma, beta, epsilon)
    shift = None
    if y is None:
        shift = moments[0].detach()
        wide = _wide(x) - sets.spread(shift)
        y, *moments = sets.normalize(wide, gamma, beta, epsilon, is_near=True)
    return y.to(x.dtype), shift, *moments


def _standardized(x, gamma, beta, mean, variance, sets, epsilon):
    """Returns output and deviation ** -1."""
    inverse = torch.rsqrt(variance + epsilon)
    if not is_exact(mean, inverse):
        x, mean = x - sets.spread(mean), torch.zeros_like(mean)
    return sets.standardize(x, gamma, beta, mean, inverse), inverse


class _Normalize(torch.autograd.Function):
    """A view of the input, flat gamma and beta to what `_normalized` returns."""

    @staticmethod
    def forward(ctx, x, gamma, beta, sets, epsilon):
        y, *moments = _normalized(x, gamma, beta, sets, epsilon)
        shift, mean, _, inverse = moments
        ctx.save_for_backward(x, gamma, shift, mean, inverse)
        ctx.sets, ctx.epsilon = sets, epsilon
        ctx.mark_non_differentiable(*(v for v in moments if v is not None))
        return y, *moments

    @staticmethod
    def backward(ctx, gradient, *_):
        x, gamma, shift, mean, inverse = ctx.saved_tensors
        sets = ctx.sets
        if _has_plain_backward(gradient):

            def plain(x, gamma, beta):
                return _plain(x, sets.axes, ctx.epsilon, gamma, beta)

            gradients = _plain_gradients(plain, ctx, x, gamma, gradient)
        else:
            wide, g = _wide(x), _wide(gradient).contiguous()
            centered = wide if shift is None else wide - sets.spread(shift)
            dx, *rest = sets.gradients(g, centered, gamma, mean, inverse)
            gradients = dx.to(x.dtype), *rest
        return *_needed(ctx, gradients), None, None


class _Standardize(torch.autograd.Function):
    """The same with given means and variances of channels."""

    @staticmethod
    def forward(ctx, x, gamma, beta, mean, variance, sets, epsilon):
        y, inverse = _standardized(x, gamma, beta, mean, variance, sets, epsilon)
        ctx.save_for_backward(x, gamma, mean, variance, inverse)
        ctx.sets, ctx.epsilon = sets, epsilon
        ctx.mark_non_differentiable(inverse)
        return y, inverse

    @staticmethod
    def backward(ctx, gradient, _):
        x, gamma, mean, variance, inverse = ctx.saved_tensors
        sets = ctx.sets
        if _has_plain_backward(gradient):

            def plain(x, gamma, beta):
                m, v = (field.view(sets.parameter_shape) for field in (mean, variance))
                moments = ops.Moments(x.new_ones(()), m, None, v)
                return _plain_standardize(x, moments, ctx.epsilon, gamma, beta)

            gradients = _plain_gradients(plain, ctx, x, gamma, gradient)
        else:
            scale = inverse if gamma is None else inverse * gamma
            gradients = [gradient * sets.spread(scale), None, None]
            if any(ctx.needs_input_grad[1:3]):
                centered = x - sets.spread(mean)
                sums, products = sets.sums(gradient.contiguous(), centered, torch.zeros_like(mean))
                gradients[1:] = products.sum((0, 1)) * inverse[0], sums.sum((0, 1))
        return *_needed(ctx, gradients), None, None, None, None


def _needed(ctx, gradients):
    return (
        g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False)
    )


def _plain(x, axes, epsilon, gamma, beta):
    problem = ops.Problem.of(x, axes, epsilon, gamma, beta)
    return ops.normalize_plain(problem, x, gamma, beta)[0]


def _plain_standardize(x, moments, epsilon, gamma, beta):
    problem = ops.Problem.of(x, (), epsilon, gamma, beta)
    return ops.standardize_plain(problem, x, moments, gamma, beta)


def _plain_gradients(plain, ctx, x, gamma, gradient):
    """Returns gradients that can be differentiated again."""
    sets = ctx.sets
    with torch.enable_grad():
        beta = _wide(x.new_zeros(sets.channels)).requires_grad_()
        inputs = [x, gamma, beta]
        needed = [i for i in range(3) if ctx.needs_input_grad[i]]
        parameters = (None if v is None else v.view(sets.parameter_shape) for v in (gamma, beta))
        y = plain(x.view(sets.shape), *parameters)
        found = torch.autograd.grad(
            y, [inputs[i] for i in needed], gradient.reshape(sets.shape), create_graph=True
        )
    gradients = [None] * 3
    for i, g in zip(needed, found, strict=True):
        gradients[i] = g
    return gradients


registry.register("normalize", "torch", normalize, options=["exported", "moments"], device="cpu")
registry.register("standardize", "torch", standardize, device="cpu")
