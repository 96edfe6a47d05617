"""Executors for PyTorch on accelerators without Triton: PyTorch's own operations on shifted data.

A native operation keeps its mean in one number, which is exact for data whose mean is near zero. So
the rounded mean is subtracted first. This takes three passes over the input, and keeps a shifted
copy for the backward pass. The derivatives, of every order, are PyTorch's.
"""

import torch
import torch.nn.functional as F

from keras_norm import ops
from keras_norm.kernels.plan import plan

HALF = torch.float16, torch.bfloat16


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    is_plain = problem.centered and weights is None and combine is None
    if not is_plain or x.numel() == 0 or torch.compiler.is_compiling():
        return None
    planned = plan(problem)
    if planned is None or not planned.is_ordered:
        return None
    form = planned.form
    # PyTorch's group normalization takes channels that follow the samples.
    is_batch, is_rows = form.samples == form.group_size == 1, planned.is_rows
    if form.before != 1 and not is_batch:
        return None
    wide = x.float() if x.dtype in HALF else x
    shift = wide.detach().mean(problem.axes, keepdim=True)
    shift = torch.where(shift.isfinite(), shift, 0)
    distance = wide - shift
    flat = (None if v is None else v.reshape(-1) for v in (gamma, beta))
    if is_rows:
        rows = distance.reshape(form.samples, form.group_size)
        y = F.layer_norm(rows, rows.shape[1:], *flat, problem.epsilon)
    elif is_batch:
        images = distance.reshape(form.before, form.groups, form.after)
        if form.before * form.after == 1:
            return None
        y = F.batch_norm(images, None, None, *flat, training=True, eps=problem.epsilon)
    else:
        images = distance.reshape(form.samples, form.channels, form.after)
        y = F.group_norm(images, form.groups, *flat, problem.epsilon)
    y = y.reshape(x.shape).to(x.dtype)
    return y, _moments(shift, distance.detach(), problem.axes) if problem.moments else None


def standardize(problem, x, moments, gamma, beta):
    """Declines: the plain function needs no more passes than native operations."""
    return None


def _moments(shift, distance, axes):
    variance, residual = torch.var_mean(distance, axes, correction=0, keepdim=True)
    count = shift.new_full((), distance.numel() // shift.numel())
    return ops.Moments(count, shift, residual, variance)
