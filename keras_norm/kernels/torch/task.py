"""A problem on tensors as they lie in memory: how they are viewed, and its solution.

Kept for the backward pass are the input and the moments of its sets. Where a mean is too far from
zero for the fast operations (`sets.are_near`), they get what is left of the input after a *shift*,
the rounded mean, is subtracted: at the cost of a pass.
"""

import functools
from typing import Any, NamedTuple

import torch

from keras_norm import ops
from keras_norm.kernels.plan import Plan, plan
from keras_norm.kernels.torch.sets import are_near, sets_of, wide


class Solution(NamedTuple):
    """Output and moments, by sample and group.

    The mean is `shift + mean`, where a shift of None stands for 0; a variance of None says that it
    follows from `inverse`, which is 1 / sqrt(variance + epsilon), or 0 of empty sets.
    """

    y: Any
    shift: Any
    mean: Any
    variance: Any
    inverse: Any


class Task(NamedTuple):
    """What is to be done with tensors that are viewed in the form of a plan."""

    plan: Plan
    sets: Any
    epsilon: float
    centered: bool

    def views(self, x, gamma, beta, weights=None):
        """Returns the tensors of a call in the sizes that `sets` takes."""
        parameters = (None if v is None else self._ordered(v).reshape(-1) for v in (gamma, beta))
        if weights is not None:
            mask = self.plan.mask
            weights = self._ordered(weights).expand(mask.expanded).reshape(mask.form)
            weights = weights.to(torch.promote_types(x.dtype, torch.float32))
        return self._ordered(x).contiguous().view(self.plan.form), *parameters, weights

    def by_set(self, moment):
        """Returns a moment as numbers by set."""
        return self._ordered(moment).reshape(self.plan.form.samples, self.plan.form.groups)

    def unview(self, view, sizes=None):
        """Returns what is in the order of the plan in the order of the input."""
        view = view.reshape(self.plan.sizes if sizes is None else sizes)
        return view if self.plan.is_ordered else view.permute(self.plan.inverse)

    def moments(self, found, weights):
        """Returns shift, mean, variance and inverse that were found as moments of the input."""
        shift, mean, variance, inverse = found
        if variance is None:
            variance = (inverse**-2 - self.epsilon).clamp_(min=0).masked_fill_(inverse == 0, 0)
        shift, mean = (mean, torch.zeros_like(mean)) if shift is None else (shift, mean)
        fields = [self.unview(v, self.plan.moments) for v in (shift, mean, variance)]
        count = self.count(weights)
        if torch.is_tensor(count) and count.numel() == 1:
            count = count.reshape([1] * len(self.plan.order))
        elif torch.is_tensor(count):
            count = self.unview(count.expand(mean.shape), self.plan.moments)
        else:
            count = mean.new_tensor(count)
        return ops.Moments(count, *fields)

    def spread(self, values):
        """Returns numbers by set in a shape that broadcasts against the view of the input."""
        return values[:, None, :, None, None]

    def count(self, weights):
        """Returns how many elements a set has: a number, or an array by set."""
        form = self.plan.form
        if weights is None:
            return form.count
        samples, before, *_, after = weights.shape
        repeats = form.count // (before * after)
        return weights.view(samples, before, after).sum((1, 2))[:, None] * repeats

    def partial(self, weights):
        """Returns weights if they weigh the elements of a set; None if they weigh whole sets."""
        return None if weights is None or self.plan.mask.is_by_set else weights

    def cleaned(self, x, weights):
        """Returns the input with 0 for what is NaN or infinite in padding."""
        if weights is None or x.sum().isfinite():
            return x
        return torch.where((weights > 0) | x.isfinite(), x, 0)

    def solve(self, x, gamma, beta, weights, output=True):
        """Returns the `Solution` for viewed tensors; for replicas without output, and inverse."""
        x = self.cleaned(x, weights)
        values = x if self.sets.takes_16_bits else wide(x)
        y, held, mean, variance, inverse = self._attempt(values, gamma, beta, weights, output)
        shift = None
        if self.centered and not are_near(mean, inverse):
            shift = mean
            room = y if y is not None and y.dtype == shift.dtype else None
            values = torch.sub(values, self.spread(shift), out=room)
            y, held, mean, variance, inverse = self._attempt(values, gamma, beta, weights, output)
        if not output:
            return Solution(None, shift, mean, variance, None)
        if y is None:
            y = self.sets.standardize(values, gamma, beta, mean, inverse, out=held)
        elif weights is not None:
            empty = (weights == 0).view(-1).expand(len(y))
            channels = *y.shape[2:4], 1
            y[empty] = y.new_zeros(()) if beta is None else beta.view(channels).to(y)
        return Solution(y.to(x.dtype), shift, mean, variance, inverse)

    def _attempt(self, x, gamma, beta, weights, output):
        """Returns output and room for one, each None or not; mean, variance and inverse."""
        y = held = None
        if output and self.partial(weights) is None:
            y, mean, variance, inverse = self.sets.normalize(
                x, gamma, beta, self.epsilon, self.centered
            )
        else:
            mean, variance, held = self._moments(x, self.partial(weights))
            inverse = torch.rsqrt(variance + self.epsilon)
        if weights is not None:
            is_empty = self.count(weights) == 0
            mean, inverse = (v.masked_fill(is_empty, 0) for v in (mean, inverse))
            variance = None if variance is None else variance.masked_fill(is_empty, 0)
        return y, held, mean, variance, inverse

    def _moments(self, x, weights):
        """Returns the means and variances of elements that weights say; and room for an output.

        Where 0 stands for the others, the moments of the whole, mean' and variance', are a merge,
        which is run backwards: with s for the share of a set's elements that have part,

            mean' = s mean,  variance' = s variance + s (1 - s) mean^2
        """
        if weights is None:
            return *self.sets.moments(x, self.centered), None
        held = x * weights
        mean, variance = self.sets.moments(held, self.centered)
        share = self.count(weights) / self.plan.form.count
        divisor = torch.where(share > 0, share, 1)
        mean = mean / divisor
        variance = (variance / divisor - (1 - share) * mean * mean).clamp_(min=0)
        return mean, variance, held

    def shifted(self, x, shift):
        """Returns the input in float32 at least, less its shift."""
        x = wide(x)
        return x if shift is None else x - self.spread(shift)

    def gradients(self, gradient, x, gamma, weights, shift, mean, inverse):
        """Returns the gradients of input, gamma and beta from what was kept of a solution."""
        g, clean = wide(gradient).contiguous(), self.cleaned(x, weights)
        values = self.shifted(clean, shift)
        count = self.count(weights)
        count = count.clamp(min=1) if torch.is_tensor(count) else count
        partial = self.partial(weights)
        dx, *rest = self.sets.gradients(
            g, values, gamma, mean, inverse, self.centered, partial, count
        )
        return dx.to(x.dtype), *rest

    def _ordered(self, x):
        return x if self.plan.is_ordered else x.permute(self.plan.order)


def task_of(problem, x):
    """Returns the `Task` of a problem whose input is `x`, or None if it does not have the form."""
    return _task(problem, x.stride())


@functools.lru_cache(maxsize=4096)
def _task(problem, strides):
    axes = range(len(problem.shape))
    spanned = problem.gamma_axes or problem.beta_axes or ()
    # As the input lies in memory; else copied into the form's own order.
    for order in (
        sorted(axes, key=lambda axis: -strides[axis]),
        sorted(axes, key=lambda axis: (axis in spanned, axis in problem.axes)),
    ):
        found = plan(problem, tuple(order))
        if found is not None:
            return Task(found, sets_of(found), problem.epsilon, problem.centered)
    return None
