"""The sets of an input in a view: their moments, and the scale and offset that follow from them."""

import math
from typing import Any

from keras import ops

from keras_norm.ops import Moments, renorm_corrections

# Means up to this many standard deviations need no shift: their squares cost one bit of accuracy.
# benchmarks/accuracy.py measures the error.
LARGEST_UNSHIFTED_MEAN = 1.0


class Sets:
    """The sets of an input in a view, and means over their valid elements.

    Each backend has subclasses, with its own branches and the forms that it computes fast.

    Args:
        view: `View`.
        x: The input in the view, for its sizes.
        weights: The mask in the view, or None.
        dtype: Name of the dtype of the moments.

    Attributes:
        count: Number of valid elements in each set: a number, or an array by sample.
        share: By sample, the share of a channel's positions that is valid, more than 0. None if all
            positions are valid, and where a set is valid or invalid as a whole: a selection at the
            end is then sufficient.
    """

    def __init__(self, view, x, weights, dtype):
        self.view, self.dtype, self.share = view, dtype, None
        self.weights: Any = None
        positions = view.size(x, dtype=dtype)
        members = view.plan.form.group_size if view.is_by_channel else 1
        self.count = positions * members
        if weights is None:
            return
        self.weights = w = ops.cast(weights, dtype)
        if view.plan.mask.is_by_set:
            self.count = w * self.count
        else:
            # Sums of ones are exact.
            counted = ops.sum(w, view.positions, keepdims=True) * (
                positions / view.size(w, dtype=dtype)
            )
            self.count = counted * members
            self.share = ops.where(counted > 0, counted, 1) / positions

    def found(self, x, centered):
        """Returns shift, residual and variance, and 1 if all of the input is finite, else 0.

        Args:
            x: The input in the view, in its own dtype: a branch receives its arrays from memory.
            centered: Whether there is a mean.
        """
        raw = self.near(ops.cast(x, self.dtype), centered)
        finite = ops.cast(ops.all(ops.isfinite(raw[1])), self.dtype)
        mean, variance = map(self.selected, raw)
        if not centered and self.share is None:
            return mean, mean, variance, finite

        def around(shift):
            shifted = self.masked(ops.cast(x, self.dtype) - shift)
            return self._variance(shifted, self.mean(ops.square(shifted)), centered)

        def far():
            if not centered:
                return mean, *around(0)
            is_mean = self.weights is None
            shift = mean if is_mean else self.mean(self.masked(ops.cast(x, self.dtype)))
            shift = self.constant(shift)
            return shift, *around(shift)

        is_near = ops.all(
            (ops.square(mean) <= LARGEST_UNSHIFTED_MEAN**2 * variance) & ops.isfinite(variance)
        )
        near = ops.zeros_like(mean), mean, variance
        return *self.branch(is_near, lambda: near, far), finite

    def near(self, x, centered):
        """Returns mean and variance of elements near zero; padding may have any value.

        The result is finite if all of `x` is. The caller replaces the values of empty sets by 0.
        The two sums read separate weights: XLA writes an array with two readers to memory.
        """
        if self.share is None:
            return self._variance(x, self.squares(x), centered)
        return self._variance(x * self.weights, self.squares(x * -self.weights), centered)

    def mean(self, x):
        """Returns the means of the sets; `x` must be 0 at padding."""
        means = self.view.mean(x)
        return self.view.group_means(means if self.share is None else means / self.share)

    def _variance(self, x, square, centered):
        if not centered:
            return ops.zeros_like(square), square
        mean = self.mean(x)
        return mean, ops.relu(square - ops.square(mean))

    def masked(self, x):
        """Returns `x` with 0 at padding, for means."""
        return x if self.weights is None else ops.where(self.weights > 0, x, 0)

    def cleaned(self, x, like=None):
        """Returns `x` with 0 at padding that is not finite (in `like`, if that is given).

        Valid elements that are not finite make the moments NaN or infinite.
        """
        if self.share is None:
            return self.masked(x)
        return ops.where(ops.isfinite(x) if like is None else ops.abs(like) < math.inf, x, 0)

    def selected(self, values):
        """Returns numbers by set, with 0 for empty sets."""
        return values if self.weights is None else ops.where(self.count > 0, values, 0)

    def moments(self, x, shift, residual, variance):
        """Returns numbers in the view as `Moments`, of the rank of the input `x`."""
        count = ops.cast(self.count, self.dtype)
        count = count if self.weights is None else self.view.count(count, x)
        return Moments(count, *(self.view.moment(v, x) for v in (shift, residual, variance)))

    def affine(self, x, found, gamma, beta, epsilon, combine=None, renorm=None):
        """Returns shift, scale and offset by channel, and the moments.

        The output is then `(x - shift) * scale + offset`.

        Args:
            x: The input, for its sizes.
            found: Shift, residual and variance in the view.
            gamma: Array in the view.
            beta: Array in the view.
            epsilon: Number that is added to the variance.
            combine: As in `keras_norm.ops.normalize`, or None.
            renorm: As in `keras_norm.ops.normalize`, or None.
        """
        shift, residual, variance = found
        count, moments = self.count, self.moments(x, *found)
        if combine is not None:
            moments = combine(moments)
            shift, residual, variance = map(self.view.of_moment, moments[1:])
            count = ops.reshape(moments.count, ())
        if renorm is not None:
            r, d = map(self.view.of_moment, renorm_corrections(moments, renorm, epsilon))
            gamma, beta = gamma * r, beta + gamma * d
        gamma, beta = (self.view.spread(v, variance) for v in (gamma, beta))

        def scale_and_offset(gamma, beta, residual, variance):
            # Not `rsqrt`: its derivative has the third power of the result, which may overflow.
            inverse = 1 / ops.sqrt(variance + epsilon)
            if combine is not None or self.weights is not None:
                inverse = ops.where(count > 0, inverse, 0)
            # The residual is subtracted after the scaling: (x - shift) - residual, reassociated,
            # is x - (shift + residual).
            scale = gamma * inverse
            return scale, beta - residual * scale

        scale, offset = self.recomputed(scale_and_offset)(gamma, beta, residual, variance)
        return shift, scale, offset, moments

    def branch(self, condition, near, far):
        """Returns `near()` where the condition is true, else `far()`; or always `far()`."""
        raise NotImplementedError

    def constant(self, shift):
        """Returns the shift as a constant."""
        # Without this selection, XLA contracts the multiplication in the mean with some of its
        # subtractions.
        return ops.stop_gradient(ops.where(ops.isfinite(shift), shift, 0))

    def recomputed(self, function):
        """Returns a function that keeps its arguments for its gradient, and no other values."""
        return function

    def squares(self, x):
        """Returns the means of the squares of elements near zero; `x` must be 0 at padding."""
        return self.mean(ops.square(x))
