"""The executor for graphs of `torch.compile`: one formula without branches.

PyTorch's compiler fuses the operations into passes over memory, and differentiates them. The passes
read the input for the shift, for the moments of the shifted input, and for the output. In the
backward pass, they read input and gradient for two sums, and again for the result.
"""

import math

import torch
from torch.fx.experimental.symbolic_shapes import has_static_value

from keras_norm.kernels.autograd import axes_as_numbers, wider
from keras_norm.kernels.plan import AFTER, BEFORE, plan
from keras_norm.kernels.sets import Sets
from keras_norm.kernels.view import View, short
from keras_norm.ops import Moments
from keras_norm.ops.convert import at_least_float32
from keras_norm.ops.standardize import spread

# Elements that a single sum may run over with an error below 1e-6
# (`test_the_compiler_keeps_the_promised_accuracy`).
LONGEST_SUM = 4096
# The compiler writes out sums of up to this many elements wherever their results are read.
LONGEST_WRITTEN_OUT = 8


class ViewInGraph(View):
    """A view in a graph that PyTorch compiles."""

    def group_means(self, values):
        """Returns means by channel as means over all channels of a group.

        The compiler would compute a short sum again for each element of the input. A sum of
        several copies is long enough to be stored, one number for each channel.
        """
        _, _, groups, size, _ = self.plan.form
        if not self.is_by_channel or not 1 < size <= LONGEST_WRITTEN_OUT:
            return super().group_means(values)
        copies = LONGEST_WRITTEN_OUT // size + 1
        by_group = values.reshape(-1, groups, 1, size, 1).expand(-1, -1, size, -1, copies)
        return (by_group.sum((3, 4)) / (size * copies)).reshape(values.shape)


class SetsInGraph(Sets):
    """Sets in a graph that PyTorch compiles."""

    def branch(self, condition, near, far):
        """Returns `far()`: the compiler does not fuse across the borders of a branch."""
        return far()

    def near(self, x, centered):
        """Returns mean and variance of elements near zero; gradients never meet the padding."""
        return super().near(self.masked(x), centered)

    def constant(self, shift):
        """Returns the shift as a constant."""
        return shift.detach()

    def cleaned(self, x, like=None):
        """Returns `x` with 0 at padding that is not finite, without `isfinite`, which is slow."""
        return self.masked(x) if self.share is None else torch.where(x.abs() < math.inf, x, 0)


def _traced(problem):
    """Returns the problem with axes as numbers, and None for each size that is a symbol."""

    def sizes(shape):
        return tuple([size if has_static_value(size) else None for size in shape])

    mask = None if problem.mask is None else sizes(problem.mask)
    return problem._replace(shape=sizes(problem.shape), axes=axes_as_numbers(problem), mask=mask)


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize` while a graph is traced."""
    expected = wider(x.dtype)
    has_other_dtype = any(v is not None and v.dtype != expected for v in (gamma, beta))
    if has_other_dtype or torch.compiler.is_exporting():
        return None
    problem = _traced(problem)
    # Not the cached function: the compiler looks into it, and warns of the cache.
    found = plan.__wrapped__(problem)
    if found is None or None in found.form[2:4] or 0 in problem.shape:
        return None
    parts = (found.sizes_of(part) for part in (BEFORE, AFTER))
    sizes = [[short(size, LONGEST_SUM) for size in part] for part in parts]
    view = ViewInGraph(found, sizes, LONGEST_SUM, most=LONGEST_SUM)
    if not view.suits(problem):
        return None
    dtype = at_least_float32(problem.dtype)
    gamma, beta = view.parameter(gamma, 1, dtype), view.parameter(beta, 0, dtype)
    weights = None if weights is None else view.weights(weights, x)
    values = view.of(x)
    sets = SetsInGraph(view, values, weights, dtype)
    *moments, _ = sets.found(values, problem.centered)
    if view.is_by_channel:
        shift, scale, offset, moments = sets.affine(
            x, moments, gamma, beta, problem.epsilon, combine
        )
    else:
        shift, residual, variance = moments
        scale = sets.selected(1 / torch.sqrt(variance + problem.epsilon)) * gamma
        offset = beta - residual * scale
        moments = sets.moments(x, *moments)
    scale, offset = (spread(v, values) for v in (scale, offset))
    y = (sets.cleaned(values.to(expected)) - shift) * scale + offset
    moments = Moments(*(v.detach() for v in moments)) if problem.moments else None
    return view.back(y.to(x.dtype), x), moments
