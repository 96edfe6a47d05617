"""The functions that PyTorch differentiates, each with its derivative.

A derivative that is differentiated in turn, or batched, is the plain function's.
"""

import torch

from keras_norm import ops
from keras_norm.kernels.torch.sets import are_near, wide

# Where a set extends in the form.
AXES = (1, 3, 4)


def is_transformed():
    """Returns whether `torch.func` or a forward-mode derivative is at work."""
    return (
        torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    )


class Normalize(torch.autograd.Function):
    """Viewed tensors to what `Task.solve` returns: output and moments, which are constants."""

    @staticmethod
    def forward(ctx, x, gamma, beta, weights, task):
        """Solves the problem."""
        found = task.solve(x, gamma, beta, weights)
        ctx.save_for_backward(x, gamma, weights, found.shift, found.mean, found.inverse)
        ctx.task = task
        ctx.mark_non_differentiable(*(v for v in found[1:] if v is not None))
        return _whole(found.y), *found[1:]

    @staticmethod
    def backward(ctx, gradient, *_):
        """Returns the gradients of input, gamma and beta, and None for the rest."""
        x, gamma, weights, *moments = ctx.saved_tensors
        task = ctx.task
        if _has_plain_backward(gradient):

            def plain(x, gamma, beta):
                gamma, beta = _spanning(x, gamma, beta)
                options = {"centered": task.centered}
                problem = ops.Problem.of(x, AXES, task.epsilon, gamma, beta, weights, **options)
                return ops.normalize_plain(problem, x, gamma, beta, weights)[:1]

            inputs = x, gamma, _zeros(x)
            return *plain_gradients(plain, inputs, ctx.needs_input_grad, [gradient]), None, None
        gradients = task.gradients(gradient, x, gamma, weights, *moments)
        return *_needed(ctx, gradients), None, None


class Moments(torch.autograd.Function):
    """A viewed input to the shift (a constant), mean and variance of its sets."""

    @staticmethod
    def forward(ctx, x, weights, task):
        """Returns the moments."""
        found = task.solve(x, None, None, weights, output=False)
        ctx.save_for_backward(x, weights, found.shift, found.mean)
        ctx.task = task
        if found.shift is not None:
            ctx.mark_non_differentiable(found.shift)
        return found.shift, found.mean, found.variance

    @staticmethod
    def backward(ctx, _, to_mean, to_variance):
        """Returns the gradient of the input, and None for the rest.

        With w = 1 for the n elements that have part, and m for the mean,

            dm / dx = w / n, dvariance / dx = 2 w (x - m) / n

        so that the gradient is w (slope x + offset), where

            slope = 2 to_variance / n, offset = to_mean / n - slope m
        """
        x, weights, shift, mean = ctx.saved_tensors
        task = ctx.task
        if any(map(_has_plain_backward, (to_mean, to_variance))):

            def plain(x):
                clean = wide(task.cleaned(x, weights))
                found = ops.moments(clean, AXES, weights, centered=task.centered)
                return [v.reshape(mean.shape) for v in found[2:]]

            gradients = [to_mean, to_variance]
            return *plain_gradients(plain, [x], ctx.needs_input_grad, gradients), None, None
        values = task.shifted(task.cleaned(x, weights), shift)
        count = task.count(weights)
        count = count.clamp(min=1) if torch.is_tensor(count) else count
        slope = 2 * to_variance / count
        offset = to_mean / count - slope * mean if task.centered else torch.zeros_like(slope)
        dx = task.sets.affine(values, *map(task.sets.by_channel, (slope, offset)))
        dx = dx if weights is None else dx.mul_(weights)
        return dx.to(x.dtype), None, None


class Standardize(torch.autograd.Function):
    """A viewed input and moments by set to the output.

    The mean is `shift + mean`; without a `mean` it is `shift`, which then gets gradients.
    """

    @staticmethod
    def forward(ctx, x, gamma, beta, shift, mean, variance, task):
        """Returns the output."""
        inverse = torch.rsqrt(variance + task.epsilon)
        total = shift if mean is None else shift + mean
        ctx.is_near = are_near(total, inverse)
        ctx.save_for_backward(x, gamma, shift, mean, variance)
        ctx.task = task
        values, mean = _near(ctx, x, shift, mean)
        return _whole(task.sets.standardize(values, gamma, beta, mean, inverse).to(x.dtype))

    @staticmethod
    def backward(ctx, gradient):
        """Returns the gradients of the tensors.

        With h = inverse (x - mean) and u = gamma gradient, where the sums run over a set,

            to x: inverse u
            to gamma and beta: the sums of gradient h and gradient over what has the same gamma
            to the mean: -inverse sum(u)
            to the variance: -inverse^3 / 2 sum(u (x - mean)) = -inverse^2 / 2 sum(u h)
        """
        x, gamma, shift, mean, variance = ctx.saved_tensors
        task, sets = ctx.task, ctx.task.sets
        if _has_plain_backward(gradient):

            def plain(x, gamma, beta, shift, mean, variance):
                spread = (None if v is None else task.spread(v) for v in (shift, mean, variance))
                moments = ops.Moments(x.new_ones(()), *spread)
                gamma, beta = _spanning(x, gamma, beta)
                problem = ops.Problem.of(x, AXES, task.epsilon, gamma, beta)
                return [ops.standardize_plain(problem, wide(x), moments, gamma, beta).to(x.dtype)]

            inputs = x, gamma, _zeros(x), shift, mean, variance
            return *plain_gradients(plain, inputs, ctx.needs_input_grad, [gradient]), None
        inverse = torch.rsqrt(variance + task.epsilon)
        g = wide(gradient).contiguous()
        scale = sets.by_channel(inverse)
        scale = scale if gamma is None else scale * gamma
        gradients = [None] * 6
        if ctx.needs_input_grad[0]:
            gradients[0] = sets.affine(g, scale, torch.zeros_like(scale)).to(x.dtype)
        if any(ctx.needs_input_grad[1:]):
            values, center = _near(ctx, x, shift, mean)
            sums, products = sets.sums(g, values, sets.by_channel(center)[:, None])
            products = products * sets.by_channel(inverse)[:, None]
            first, second = (sets.by_set(v, gamma) for v in (sums, products))
            to_mean = -inverse * first
            gradients[1:3] = products.sum((0, 1)), sums.sum((0, 1))
            gradients[3:] = to_mean, to_mean, -0.5 * inverse * inverse * second
        return *_needed(ctx, gradients), None


def _whole(y):
    """Returns an output that is no view to PyTorch, which would refuse changes in place."""
    return torch.ops.aten._unsafe_view.default(y, y.shape)


def _near(ctx, x, shift, mean):
    """Returns an input whose mean is near zero, and its mean."""
    x = wide(x)
    if ctx.is_near:
        return x, shift if mean is None else shift + mean
    return x - ctx.task.spread(shift), torch.zeros_like(shift) if mean is None else mean


def _has_plain_backward(gradient):
    """Returns whether a backward pass is differentiated in turn, or takes a batch of gradients."""
    is_batch = torch._C._functorch.is_legacy_batchedtensor(gradient)
    return is_batch or torch.is_grad_enabled() or is_transformed()


def _needed(ctx, gradients):
    return (
        g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False)
    )


def _zeros(x):
    """Returns zeros for beta, which is not kept: no derivative depends on it."""
    return wide(x.new_zeros(x.shape[2] * x.shape[3])).requires_grad_()


def _spanning(x, *parameters):
    sizes = (1, 1, *x.shape[2:4], 1)
    return (None if v is None else v.view(sizes) for v in parameters)


def plain_gradients(function, inputs, needed, gradients):
    """Returns gradients that can be differentiated again; None where none is needed."""
    indices = [i for i in range(len(inputs)) if needed[i]]
    with torch.enable_grad():
        outputs = function(*inputs)
        found = torch.autograd.grad(
            outputs, [inputs[i] for i in indices], gradients, create_graph=True
        )
    by_index = dict(zip(indices, found, strict=True))
    return [by_index.get(i) for i in range(len(inputs))]
