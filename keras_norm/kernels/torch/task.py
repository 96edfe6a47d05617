"""A problem with the memory layout of its tensors: their views, and the solution.

The input and the moments of its sets are kept for the backward pass. Where a mean is too far from
zero for the fast operations (`sets.are_near`), the rounded mean, the *shift*, is subtracted first.
This costs a pass over the input. NaN and infinity in padding make a mean NaN, which is not near;
only then are they replaced by 0, and the input counts as *spoilt*. So a mask needs no separate
check of the data.
"""

import functools
import math
from typing import Any, NamedTuple

import torch

from keras_norm import ops
from keras_norm.kernels.autograd import wide, wider
from keras_norm.kernels.plan import Plan, order_of_parts, plan
from keras_norm.kernels.sets import LARGEST_UNSHIFTED_MEAN
from keras_norm.kernels.torch.sets import LARGEST_ROUNDED_MEAN, Channels, Rows, are_near

# Elements of an input that is copied into the order of a native function: one call instead of many.
# Larger inputs take less time in many calls (`python -m benchmarks`, rows "small").
MOST_COPIED = 1 << 17


class Solution(NamedTuple):
    """Output, and moments by sample and group.

    The mean is `shift + mean`; a shift of None means 0. A variance of None follows from `inverse`,
    which is 1 / sqrt(variance + epsilon), or 0 for empty sets. The last field says whether padding
    is spoilt.
    """

    y: Any
    shift: Any
    mean: Any
    variance: Any
    inverse: Any
    is_spoilt: bool


class Task(NamedTuple):
    """A problem, its plan, and the sets with the operations for it.

    Attributes:
        problem: `Problem`.
        plan: `Plan`.
        sets: `Rows` or `Channels`.
        is_ordered: Whether the input has its axes in the order of the plan.
        copied_back: None, or two permutations for results that are copied into the memory order
            of the input: from the order of the plan, and from there to the order of the input.
        parameter_sizes: Sizes of gamma and beta, in the order of the plan.
    """

    problem: ops.Problem
    plan: Plan
    sets: Any
    is_ordered: bool
    copied_back: tuple | None
    parameter_sizes: tuple

    @property
    def is_native(self):
        """Whether the output is one call of a native function, and the gradients are another."""
        by_set = self.problem.mask is None or self.plan.mask.is_by_set
        return self.problem.centered and by_set and self.sets.is_native

    def view(self, x):
        """Returns the input, or an array of its shape, in the shape of the sets."""
        return self._ordered(x).contiguous().view(self.sets.shape)

    def flat(self, parameter):
        """Returns gamma or beta by channel."""
        return None if parameter is None else self._ordered(parameter).reshape(-1)

    def weights(self, weights, dtype):
        """Returns weights that broadcast against the view of the input."""
        if weights is None:
            return None
        mask = self.plan.mask
        weights = self._ordered(weights).expand(mask.expanded)
        return weights.reshape(self.sets.mask_shape(mask.form)).to(wider(dtype))

    def by_set(self, moment):
        """Returns a moment of the input as an array by set."""
        return self._ordered(moment).reshape(self.plan.form.samples, self.plan.form.groups)

    def unview(self, view, sizes=None):
        """Returns a view as an array whose axes are in the order of the input.

        Args:
            view: An array in the order of the plan.
            sizes: Its sizes in this order; None for those of the input.
        """
        view = view.reshape(self.plan.sizes if sizes is None else sizes)
        if self.is_ordered:
            return view
        if self.copied_back is None:
            return view.permute(self.plan.inverse)
        into_memory, to_input = self.copied_back
        return view.permute(into_memory).contiguous().permute(to_input)

    def moments(self, found, weights):
        """Returns `Moments` of the input from shift, mean, variance and inverse by set."""
        shift, mean, variance, inverse = found
        count = self.count(self.weights(weights, mean.dtype))
        if variance is None:
            variance = (inverse**-2 - self.problem.epsilon).clamp_(min=0)
        if torch.is_tensor(count):
            variance = variance.masked_fill(count == 0, 0)
            count = self.unview(count.expand(len(mean), 1), self.plan.counts)
        else:
            count = mean.new_full((), count)
        shift, mean = (mean, torch.zeros_like(mean)) if shift is None else (shift, mean)
        fields = [self.unview(v, self.plan.moments) for v in (shift, mean, variance)]
        return ops.Moments(count, *fields)

    def count(self, weights, least=0):
        """Returns the number of valid elements in a set: a number, or an array by set."""
        if weights is None:
            return self.sets.count
        counted = weights.flatten(1)
        repeats = self.sets.count // counted.shape[1]
        return (counted.sum(1, keepdim=True) * repeats).clamp_(min=least)

    def partial(self, weights):
        """Returns weights if they differ within a set; None if they apply to whole sets."""
        return None if weights is None or self.plan.mask.is_by_set else weights

    def has_elements(self, weights):
        """Returns 1 for sets with valid elements and 0 for empty sets, as an array by set."""
        if self.partial(weights) is None:
            return weights.flatten(1)
        return (self.count(weights) > 0).to(weights.dtype)

    def solve(self, x, gamma, beta, weights, output=True):
        """Returns the `Solution` for the tensors; without output and inverse if not `output`."""
        given, x, weights = x, self.view(x), self.weights(weights, x.dtype)
        gamma, beta = self.flat(gamma), self.flat(beta)
        values = x if self.sets.takes_16_bits else wide(x)

        def attempt():
            return self._attempt(values, gamma, beta, weights, output)

        y, buffer, mean, variance, inverse = attempt()
        is_merged = self.partial(weights) is not None
        largest = LARGEST_UNSHIFTED_MEAN if is_merged else LARGEST_ROUNDED_MEAN
        # Without a mean, only padding can be spoilt.
        is_certain = weights is None and not self.problem.centered
        is_near = is_certain or are_near(mean, inverse, largest)
        is_spoilt, shift = False, None
        if not is_near and weights is not None and not (mean * inverse).isfinite().all():
            is_spoilt = True
            values = self._cleaned(values, weights)
            y, buffer, mean, variance, inverse = attempt()
            is_near = are_near(mean, inverse, largest)
        if not self.problem.centered:
            mean = mean if weights is None else torch.zeros_like(mean)
        elif not is_near:
            shift = mean
            out = y if weights is None and y is not None and y.dtype == shift.dtype else None
            values = self.sets.shifted(values, shift, out=out)
            y, buffer, mean, variance, inverse = attempt()
        if not output:
            return Solution(None, shift, mean, variance, None, is_spoilt)
        if y is None:
            scale_and_offset = self.sets.scale_and_offset(gamma, beta, mean, inverse)
            y = self.sets.affine(values, *scale_and_offset, out=buffer)
        elif weights is not None:
            is_empty = (weights == 0).view(-1).expand(len(y))
            y[is_empty] = y.new_zeros(()) if beta is None else self.sets.spread(beta).to(y)
        y = self.unview(y.to(given.dtype))
        return Solution(y, shift, mean, variance, inverse, is_spoilt)

    def _attempt(self, x, gamma, beta, weights, output):
        """Returns the output or None, a buffer for it or None, mean, variance and inverse."""
        y = buffer = None
        if output and self.partial(weights) is None:
            y, mean, variance, inverse = self.sets.normalize(
                x, gamma, beta, self.problem.epsilon, self.problem.centered
            )
        else:
            mean, variance, buffer = self._moments(x, self.partial(weights))
            inverse = torch.rsqrt(variance + self.problem.epsilon)
        if weights is not None:
            if not self.problem.centered:
                mean = mean / inverse  # NaN instead of 0 where the mean square is infinite
            # A product, so that NaN remains NaN.
            has_elements = self.has_elements(weights)
            mean, inverse = mean * has_elements, inverse * has_elements
        return y, buffer, mean, variance, inverse

    def _moments(self, x, weights):
        """Returns the means and variances of the valid elements, and a buffer for the output.

        With 0 for padding, mean' and variance' of all elements are a merge of the valid elements
        and the zeros. The merge is inverted, which costs a bit of accuracy where a mean is at most
        `LARGEST_UNSHIFTED_MEAN` standard deviations. With the share s of valid elements,

            mean' = s mean,  variance' = s variance + s (1 - s) mean^2
        """
        if weights is None:
            return *self.sets.moments(x, self.problem.centered), None
        buffer = x * weights
        mean, variance = self.sets.moments(buffer, self.problem.centered, has_zeros=True)
        share = self.count(weights) / self.sets.count
        divisor = torch.where(share > 0, share, 1)
        mean = mean / divisor
        variance = (variance / divisor - (1 - share) * mean * mean).clamp_(min=0)
        return mean, variance, buffer

    def _cleaned(self, x, weights):
        """Returns a view of the input with 0 in place of spoilt padding, and of empty sets."""
        if self.plan.mask.is_by_set:
            return x.masked_fill(weights == 0, 0)
        return cleaned(x, weights)

    def shifted(self, x, weights, shift, is_spoilt):
        """Returns the input minus its shift, in at least float32, with 0 at spoilt padding."""
        x = self.view(x)
        return self.sets.shifted(self._cleaned(x, weights) if is_spoilt else x, shift)

    def gradients(self, gradient, x, gamma, weights, shift, mean, inverse, is_spoilt, needed):
        """Returns the gradients of input, gamma and beta from the kept fields of a solution.

        Those of gamma and beta may be None where they are not needed.
        """
        weights = self.weights(weights, x.dtype)
        partial = self.partial(weights)
        dx, *parameters = self.sets.gradients(
            wide(self.view(gradient)),
            self.shifted(x, weights, shift, is_spoilt),
            self.flat(gamma),
            mean,
            inverse,
            self.problem.centered,
            partial,
            self.count(partial, least=1),
            needed,
        )
        if is_spoilt:
            dx = dx.masked_fill(_is_spoilt(self.view(x), weights), 0)
        return self.unview(dx.to(x.dtype)), *map(self.parameter, parameters)

    def parameter(self, values):
        """Returns an array by channel, or None, in the shape of gamma and beta."""
        if values is None or self.problem.gamma_axes is self.problem.beta_axes is None:
            return None
        return self.unview(values, self.parameter_sizes)

    def _ordered(self, x):
        return x if self.is_ordered else x.permute(self.plan.order)


def cleaned(x, weights):
    """Returns an input with 0 in place of NaN and infinity in padding."""
    return x.masked_fill(_is_spoilt(x, weights), 0)


def _is_spoilt(x, weights):
    return ~x.isfinite() & (weights == 0)


def task_of(problem, x):
    """Returns the `Task` of a problem whose input is `x`, or None if it does not have the form."""
    return _task(problem, x.stride())


@functools.lru_cache(maxsize=4096)
def _task(problem, strides):
    axes = range(len(problem.shape))
    spanned = problem.gamma_axes or problem.beta_axes or ()
    in_set, is_spanned = problem.axes.__contains__, spanned.__contains__
    memory_order = tuple(sorted(axes, key=lambda axis: -strides[axis]))
    task = _task_in(memory_order, problem)
    is_small = math.prod(problem.shape) <= MOST_COPIED
    if is_small and not (task is not None and task.is_native):
        # Samples, groups, members, positions: the order of PyTorch's group normalization.
        order = sorted(axes, key=lambda axis: (in_set(axis), in_set(axis) != is_spanned(axis)))
        native = _task_in(order, problem, memory_order)
        task = native if native is not None and native.is_native else task
    if task is None:
        # Copied into the order of the form.
        task = _task_in(order_of_parts(problem), problem)
    return task


def _task_in(order, problem, memory_order=None):
    """Returns the task with the axes in an order, or None if it does not have the form.

    With `memory_order`, results are copied back into this order.
    """
    found = plan(problem, tuple(order))
    if found is None:
        return None
    sets = (Rows if found.is_rows else Channels)(found.form)
    spanned = problem.gamma_axes or problem.beta_axes or ()
    sizes = tuple(problem.shape[axis] if axis in spanned else 1 for axis in found.order)
    copied_back = None
    if memory_order is not None:
        into_memory = tuple(map(found.order.index, memory_order))
        copied_back = into_memory, tuple(map(memory_order.index, range(len(memory_order))))
    return Task(problem, found, sets, found.is_ordered, copied_back, sizes)
