"""Functions of autograd, each with its derivative."""

import torch

from keras_norm import ops
from keras_norm.kernels.autograd import is_differentiated, plain_gradients, wide


class Normalize(torch.autograd.Function):
    """Returns the output, and the other fields of the `Solution` if the problem wants moments.

    Moments are constants.
    """

    @staticmethod
    def forward(ctx, x, gamma, beta, weights, task):
        """Solves the problem."""
        y, *moments, ctx.is_spoilt = task.solve(x, gamma, beta, weights)
        shift, mean, _, inverse = moments
        ctx.save_for_backward(x, gamma, beta, weights, shift, mean, inverse)
        ctx.task = task
        # Otherwise PyTorch makes arrays of zeros for the gradients of the moments.
        ctx.set_materialize_grads(False)
        # Without `detach`, a view that is created here could not be changed in place.
        y = y.detach()
        if not task.problem.moments:
            return (y,)
        ctx.mark_non_differentiable(*(v for v in moments if v is not None))
        return y, *moments

    @staticmethod
    def backward(ctx, gradient, *_):
        """Returns the gradients of input, gamma and beta, and None for the rest."""
        if gradient is None:
            return (None,) * 5
        x, gamma, beta, weights, *moments = ctx.saved_tensors
        task = ctx.task
        if is_differentiated(gradient):

            def plain(x, gamma, beta):
                return ops.normalize_plain(task.problem, x, gamma, beta, weights)[:1]

            found = plain_gradients(plain, (x, gamma, beta), ctx.needs_input_grad, [gradient])
        else:
            needed = ctx.needs_input_grad[:3]
            found = task.gradients(gradient, x, gamma, weights, *moments, ctx.is_spoilt, needed)
        return *_needed(ctx, found), None, None


class MomentsOfSets(torch.autograd.Function):
    """Returns the shift (a constant), mean and variance of an input's sets, and if it is spoilt."""

    @staticmethod
    def forward(ctx, x, weights, task):
        """Returns the moments."""
        found = task.solve(x, None, None, weights, output=False)
        ctx.save_for_backward(x, weights, found.shift, found.mean)
        ctx.task, ctx.is_spoilt = task, found.is_spoilt
        if found.shift is not None:
            ctx.mark_non_differentiable(found.shift)
        return found.shift, found.mean, found.variance, found.is_spoilt

    @staticmethod
    def backward(ctx, _, to_mean, to_variance, __):
        """Returns the gradient of the input, and None for the rest.

        With w = 1 for the n valid elements, 0 for padding, and the mean m,

            dm / dx = w / n, dvariance / dx = 2 w (x - m) / n

        so that the gradient is w (slope x + offset), where

            slope = 2 to_variance / n, offset = to_mean / n - slope m
        """
        x, weights, shift, mean = ctx.saved_tensors
        task = ctx.task
        if any(map(is_differentiated, (to_mean, to_variance))):
            axes, centered = task.problem.axes, task.problem.centered

            def plain(x):
                found = ops.moments(wide(x), axes, weights, centered=centered)
                return [task.by_set(v) for v in found[2:]]

            gradients = [to_mean, to_variance]
            return *plain_gradients(plain, [x], ctx.needs_input_grad, gradients), None, None
        weights = task.weights(weights, x.dtype)
        count = task.count(weights, least=1)
        slope = 2 * to_variance / count
        offset = to_mean / count - slope * mean
        offset = offset if task.problem.centered else torch.zeros_like(slope)
        values = task.shifted(x, weights, shift, ctx.is_spoilt)
        dx = task.sets.affine(values, *map(task.sets.by_channel, (slope, offset)))
        dx = dx if weights is None else dx.mul_(weights)
        return task.unview(dx.to(x.dtype)), None, None


class Affine(torch.autograd.Function):
    """Returns scale * (x - shift) + offset for an input in the form.

    Scale and offset have one entry by sample and channel, the shift (or None) by set.
    """

    @staticmethod
    def forward(ctx, x, scale, offset, shift, sets):
        """Returns the output."""
        ctx.save_for_backward(x, scale, offset, shift)
        ctx.sets = sets
        return sets.affine(sets.shifted(x, shift), scale, offset).to(x.dtype).detach()

    @staticmethod
    def backward(ctx, gradient):
        """Returns the gradients of input, scale and offset, and None for the rest."""
        x, scale, offset, shift = ctx.saved_tensors
        sets = ctx.sets
        if is_differentiated(gradient):

            def plain(x, scale, offset):
                scale, offset = (sets.spread(v) for v in (scale, offset))
                return [(sets.shifted(x, shift) * scale + offset).to(x.dtype)]

            inputs = x, scale, offset
            return *plain_gradients(plain, inputs, ctx.needs_input_grad, [gradient]), None, None
        g = wide(gradient.contiguous())
        found = [None] * 3
        if ctx.needs_input_grad[0]:
            found[0] = sets.affine(g, scale, torch.zeros_like(scale)).to(x.dtype)
        if any(ctx.needs_input_grad[1:]):
            sums, products = sets.sums(g, sets.shifted(x, shift), torch.zeros_like(scale)[:, None])
            found[1:] = products.sum(1), sums.sum(1)
        return *found, None, None


def _needed(ctx, gradients):
    return (
        g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False)
    )
