"""Executors for PyTorch on accelerators without Triton: PyTorch's own operations on shifted data.

A native operation keeps its mean in one number, which is exact for data whose mean is near zero. So
the rounded mean is subtracted first. This takes three passes over the input, and keeps a shifted
copy for the backward pass.
"""

import torch
import torch.nn.functional as F

from keras_norm import ops
from keras_norm.kernels.autograd import is_differentiated, is_transformed, plain_gradients, wide
from keras_norm.kernels.plan import plan


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    is_plain = problem.centered and weights is None and combine is None
    if not is_plain or x.numel() == 0 or torch.compiler.is_compiling() or is_transformed():
        return None
    planned = plan(problem)
    if planned is None or not planned.is_ordered:
        return None
    form = planned.form
    # PyTorch's batch normalization refuses channels of one element, and its group normalization
    # takes channels that follow the samples.
    suits = form.before * form.after > 1 if form.is_batch else form.before == 1
    if not suits:
        return None
    y, *moments = _Normalize.apply(x, gamma, beta, problem, planned)
    return y, ops.Moments(*moments) if problem.moments else None


class _Normalize(torch.autograd.Function):
    """Returns the output, and the moments if the problem wants them."""

    @staticmethod
    def forward(ctx, x, gamma, beta, problem, planned):
        ctx.save_for_backward(x, gamma, beta)
        ctx.problem = problem
        inputs = x, gamma, beta
        with torch.enable_grad():
            leaves = [
                None if v is None else v.detach().requires_grad_(needed)
                for v, needed in zip(inputs, ctx.needs_input_grad, strict=False)
            ]
            y, shift, distance = _solve(problem, planned, *leaves)
        ctx.graph = y, leaves
        moments = _moments(shift, distance.detach(), problem.axes) if problem.moments else ()
        ctx.mark_non_differentiable(*moments)
        return y.detach(), *moments

    @staticmethod
    def backward(ctx, gradient, *_):
        needed = ctx.needs_input_grad[:3]
        if is_differentiated(gradient):

            def plain(x, gamma, beta):
                return ops.normalize_plain(ctx.problem, x, gamma, beta)[:1]

            return *plain_gradients(plain, ctx.saved_tensors, needed, [gradient]), None, None
        y, leaves = ctx.graph
        wanted = [leaf for leaf, is_needed in zip(leaves, needed, strict=True) if is_needed]
        found = iter(torch.autograd.grad(y, wanted, gradient, retain_graph=True))
        return *(next(found) if is_needed else None for is_needed in needed), None, None


def _solve(problem, planned, x, gamma, beta):
    """Returns the output, the shift, and the input minus the shift."""
    form = planned.form
    values = wide(x)
    shift = values.detach().mean(problem.axes, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, 0)
    distance = values - shift
    flat = (None if v is None else v.reshape(-1) for v in (gamma, beta))
    if planned.is_rows:
        rows = distance.reshape(form.samples, form.group_size)
        y = F.layer_norm(rows, rows.shape[1:], *flat, problem.epsilon)
    elif form.is_batch:
        images = distance.reshape(form.before, form.groups, form.after)
        y = F.batch_norm(images, None, None, *flat, training=True, eps=problem.epsilon)
    else:
        images = distance.reshape(form.samples, form.channels, form.after)
        y = F.group_norm(images, form.groups, *flat, problem.epsilon)
    return y.reshape(x.shape).to(x.dtype), shift, distance


def standardize(problem, x, moments, gamma, beta):
    """Declines: the plain function needs no more passes than native operations."""
    return None


def _moments(shift, distance, axes):
    variance, residual = torch.var_mean(distance, axes, correction=0, keepdim=True)
    count = shift.new_full((), distance.numel() // shift.numel())
    return ops.Moments(count, shift, residual, variance)
