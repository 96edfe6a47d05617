"""The executor as an operation in the graphs of `torch.compile`.

The compiler sees two operations, forward and backward, and the sizes of their results. Inside the
operations, the problem is solved as in eager mode.
"""

import math

import torch

from keras_norm import ops
from keras_norm.kernels.operations import operation
from keras_norm.kernels.torch.functions import plain_gradients
from keras_norm.kernels.torch.sets import wider
from keras_norm.kernels.torch.task import task_of

# Versions without this function leave exported and compiled graphs to the plain functions.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: True)


def normalize(problem, x, gamma, beta, weights):
    """Solves a problem of `keras_norm.ops.normalize` while a graph is traced."""
    spans = [axes for axes in (problem.gamma_axes, problem.beta_axes) if axes is not None]
    spanned = spans[0] if spans else None
    if _is_exporting() or spans[1:] not in ([], [spanned]):
        return None
    # For sets over the batch, the compiler's own code takes 0.8 of the time of this operation.
    if problem.replicas or 0 in problem.axes:
        return None
    if any(v is not None and v.dtype != wider(x.dtype) for v in (gamma, beta)):
        return None
    # The plan has no form for a mask that differs between the channels of a set.
    inner = spanned if spanned is not None else ()
    if problem.mask is not None and any(problem.mask[axis] != 1 for axis in inner):
        return None
    y, *moments = _normalize(
        x, gamma, beta, weights, problem.axes, spanned, problem.epsilon, problem.centered
    )
    return y, _moments(problem, x, weights, *moments) if problem.moments else None


def _moments(problem, x, weights, *found):
    """Returns the moments, by operations that the compiler removes if nothing uses the moments."""
    shift, mean, inverse = (v.detach() for v in found)
    variance = (inverse**-2 - problem.epsilon).clamp(min=0)
    if weights is None:
        count = mean.new_ones(()) * math.prod([x.shape[axis] for axis in problem.axes])
    else:
        repeats = [x.shape[axis] for axis in problem.axes if problem.mask[axis] == 1]
        count = weights.to(mean.dtype).sum(problem.axes, keepdim=True) * math.prod(repeats)
        variance = torch.where(count > 0, variance, 0)
    return ops.Moments(count, shift, mean, variance)


def _task(x, weights, axes, spanned, epsilon, centered):
    spanned = None if spanned is None else tuple(spanned)
    mask = None if weights is None else tuple(weights.shape)
    dtype = str(x.dtype).removeprefix("torch.")
    problem = ops.Problem(
        tuple(x.shape), tuple(axes), spanned, spanned, epsilon, dtype, "cpu", centered, mask
    )
    return task_of(problem, x)


@operation(
    "normalize",
    "(Tensor x, Tensor? gamma, Tensor? beta, Tensor? weights, int[] axes, int[]? spanned, "
    "float epsilon, bool centered) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _normalize(x, gamma, beta, weights, axes, spanned, epsilon, centered):
    """Returns output, shift (0 without one), mean and inverse."""
    task = _task(x, weights, axes, spanned, epsilon, centered)
    y, shift, mean, _, inverse = task.solve(x, gamma, beta, weights)
    shift = torch.zeros_like(mean) if shift is None else shift
    moments = (task.unview(v, task.plan.moments).contiguous() for v in (shift, mean, inverse))
    return _as(x, y), *moments


@_normalize.register_fake
def _(x, gamma, beta, weights, axes, spanned, epsilon, centered):
    sizes = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    moments = (x.new_empty(sizes, dtype=wider(x.dtype)) for _ in range(3))
    return torch.empty_like(x), *moments


@operation(
    "normalize_backward",
    "(Tensor gradient, Tensor x, Tensor? gamma, Tensor? weights, Tensor shift, Tensor mean, "
    "Tensor inverse, int[] axes, int[]? spanned, float epsilon, bool centered, bool[] needed) "
    "-> (Tensor, Tensor, Tensor)",
)
def _normalize_backward(
    gradient, x, gamma, weights, shift, mean, inverse, axes, spanned, epsilon, centered, needed
):
    """Returns the gradients of input, gamma and beta; empty where one is not needed."""
    task = _task(x, weights, axes, spanned, epsilon, centered)
    shift, mean, inverse = (task.by_set(v) for v in (shift, mean, inverse))
    shift = shift if shift.any() else None
    found = task.gradients(gradient, x, gamma, weights, shift, mean, inverse, needed)
    dx, *columns = (v if keep else x.new_empty(0) for v, keep in zip(found, needed, strict=True))
    return _as(x, dx) if needed[0] else dx, *(v.contiguous() for v in columns)


@_normalize_backward.register_fake
def _(gradient, x, gamma, weights, shift, mean, inverse, axes, spanned, epsilon, centered, needed):
    sizes = [size if axis in (spanned or ()) else 1 for axis, size in enumerate(x.shape)]
    expected = x, shift.new_empty(sizes), shift.new_empty(sizes)
    return tuple(
        torch.empty_like(v) if keep else x.new_empty(0)
        for v, keep in zip(expected, needed, strict=True)
    )


def _keep(ctx, inputs, output):
    x, gamma, beta, weights, *ctx.options = inputs
    ctx.save_for_backward(x, gamma, beta, weights, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx, gradient, *_):
    x, gamma, beta, weights, *moments = ctx.saved_tensors
    axes, _, epsilon, centered = ctx.options
    if torch.is_grad_enabled():

        def plain(x, gamma, beta):
            problem = ops.Problem.of(x, axes, epsilon, gamma, beta, weights, centered=centered)
            return ops.normalize_plain(problem, x, gamma, beta, weights)[:1]

        found = plain_gradients(plain, (x, gamma, beta), ctx.needs_input_grad, [gradient])
    else:
        needed = list(ctx.needs_input_grad[:3])
        found = _normalize_backward(gradient, x, gamma, weights, *moments, *ctx.options, needed)
        found = (g if keep else None for g, keep in zip(found, needed, strict=True))
    return *found, *[None] * 5


_normalize.register_autograd(_backward, setup_context=_keep)


def _as(x, y):
    """Returns `y` in the memory layout that the compiler expects."""
    expected = torch.empty_like(x)
    return y if y.stride() == expected.stride() else expected.copy_(y)
