"""Sets of elements as they lie in memory, and the fast operations on them.

`native_batch_norm_backward`, asked for the gradients of its scale and offset alone, is two
sums in one pass over its arguments, which eager PyTorch has nowhere else.
"""

import functools
import math

import torch

# Chosen overloads: a call costs half of one that looks for them.
layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
group_norm_backward = torch.ops.aten.native_group_norm_backward.default

# A mean of this many deviations may be rounded to a float32: it costs 2e-7, and 1e-6 of columns,
# which are added up one after the other.
LARGEST_MEAN = 3.0
SHORT_COLUMN = 256
# Native kernels may add up this many rows, one after the other: it costs 1e-6 and, of shifted data,
# whose few bits are all rounded the same way, 2e-6.
LONGEST_COLUMN = 512
# This many for the gradients of gamma and beta, which nothing is made of.
LONGEST_COLUMN_OF_ROWS = 4096
# And this many elements that are neighbours in memory, which they add up in lanes.
LONGEST_ROW = 4096
# As many make a set, of which they make the gradient: 1e-6.
LONGEST_SET = 1 << 14
# Rows up to this long are fast to add up.
WIDEST_ROW = 512
# Samples this long are worth a native call of their own.
SMALLEST_SAMPLE = 1 << 15
# So many samples are worth a copy of gamma and beta for each position.
FEWEST_SAMPLES = 4
# How many elements to work on at a time, where what lies between shall stay in the cache.
CHUNK = 1 << 18


class Rows:
    """Sets that are rows of a matrix; gamma and beta belong to its columns.

    This class and the next have in common: `count`, how many elements a set has; `channels`, the
    size of gamma; `view_shape` of the input as the methods take it; the `shape` of the input, the
    `axes` that a set extends over and the `parameter_shape` of gamma as the plain functions do;
    `is_differentiable`, whether PyTorch knows the gradients of `normalize`, and they are exact;
    `takes_16_bits`, whether `normalize` does, and gives an output of 16 bits.
    """

    takes_16_bits = True

    def __init__(self, rows, columns):
        self.count = self.channels = columns
        self.shape = self.view_shape = (rows, columns)
        self.axes, self.parameter_shape = (1,), (1, columns)
        self._are_short = columns <= LONGEST_SET
        self.is_differentiable = rows <= LONGEST_COLUMN_OF_ROWS and self._are_short

    def spread(self, moment):
        """Returns a moment in a shape that broadcasts against the view of the input."""
        return moment

    def normalize(self, x, gamma, beta, epsilon, is_near=False):
        """Returns output, mean, variance (or None) and 1 / sqrt(variance + epsilon).

        Without an output where a mean is too far from zero; `is_near` says that none is.
        """
        # PyTorch has no second derivatives without gamma, and takes the moments' dtype from it.
        dtype = torch.promote_types(x.dtype, torch.float32)
        gamma = x.new_ones(self.channels, dtype=dtype) if gamma is None else gamma
        y, mean, inverse = torch.native_layer_norm(x, x.shape[1:], gamma, beta, epsilon)
        return y if is_near or is_exact(mean, inverse) else None, mean, None, inverse

    def gradients(self, g, x, gamma, mean, inverse):
        """Returns the gradients of input, gamma and beta; the sums of many rows go in parts."""
        gamma = x.new_ones(self.channels) if gamma is None else gamma
        beta = torch.zeros_like(gamma)
        parts = (v.split(LONGEST_COLUMN_OF_ROWS) for v in (g, x, mean, inverse))
        found = [
            layer_norm_backward(g, x, x.shape[1:], m, i, gamma, beta, [self._are_short, True, True])
            for g, x, m, i in zip(*parts, strict=True)
        ]
        rows, *columns = zip(*found, strict=True)
        if not self._are_short:
            rows = (self._gradient_of_long_rows(g * gamma, x, mean, inverse),)
        dx = rows[0] if len(rows) == 1 else torch.cat(rows)
        return dx, *(functools.reduce(torch.add, v) for v in columns)

    def _gradient_of_long_rows(self, g, x, mean, inverse):
        first = g.mean(1, keepdim=True)
        second = (g * x).mean(1, keepdim=True) - mean * first
        slope = second * inverse * -inverse * inverse
        offset = first * -inverse - slope * mean
        return torch.addcmul(offset, x, slope).addcmul_(g, inverse)


class Channels:
    """Sets that are channels, or groups of channels, of a sample; gamma and beta belong to these.

    A batch, whose samples share their moments, counts as one sample.

    Args:
        samples: How many.
        before: How many positions of a sample lie before its channels in memory.
        groups: How many groups of channels, which are sets.
        group_size: How many channels in a group.
        after: How many positions lie after the channels, each time.
    """

    takes_16_bits = False

    def __init__(self, samples, before, groups, group_size, after):
        self.channels = groups * group_size
        self.count = before * group_size * after
        self.are_channels = samples == group_size == 1
        self.shape = (samples, before, groups, group_size, after)
        self.axes, self.parameter_shape = (1, 3, 4), (1, 1, groups, group_size, 1)
        self._before, self._groups, self._group_size = before, groups, group_size
        self._are_last = after == 1
        # What native kernels return of the moments is not enough for moving statistics.
        self._is_native = before == 1 and after <= LONGEST_ROW and not self.are_channels
        # Samples that are whole sets, and rows in memory; it takes a few to be worth a gamma each.
        enough = max(FEWEST_SAMPLES, torch.get_num_threads())
        self._are_samples = groups == after == 1 and samples >= enough
        # Sums run over the positions of one part of a sample.
        if self._are_last:
            # Neighbouring rows of channels are taken for one longer row, which is faster, and a
            # call adds up as many as native kernels are exact for.
            width = min(WIDEST_ROW // self.channels, before // SHORT_COLUMN)
            width = _largest_divisor(before, max(1, width))
            calls = _divisor(before // width, LONGEST_COLUMN)
            parts = calls * width
            positions = before // parts
            self.view_shape: tuple = (samples, before, self.channels)
            self._split: tuple = (samples, calls, positions, width, self.channels)
            self._axis = 2
            self._columns = (-1, positions, width * self.channels)
            are_worth_calls = samples == 1 or before * self.channels >= SMALLEST_SAMPLE
            self._are_columns = positions <= LONGEST_COLUMN and are_worth_calls
            self._are_rows = False
        else:
            parts, positions = before, after
            self.view_shape = self._split = (samples, parts, self.channels, positions)
            self._axis = 3
            self._blocks = _divisor(positions, LONGEST_ROW)
            self._are_rows = positions // self._blocks <= LONGEST_ROW
            self._are_columns = False
        self._samples, self._parts, self._positions = samples, parts, positions
        self.is_differentiable = self.are_channels and self._are_last and 1 < before <= SHORT_COLUMN

    def spread(self, moment):
        """Returns a moment in a shape that broadcasts against the view of the input."""
        return self._over_positions(self._by_channel(moment))

    def normalize(self, x, gamma, beta, epsilon, is_near=False):
        """Returns output, mean, variance (or None) and 1 / sqrt(variance + epsilon).

        Without an output where a mean is too far from zero; `is_near` says that none is.
        """
        variance = None
        if self._is_native:
            options = *self._native_sizes(), epsilon
            y, mean, inverse = torch.native_group_norm(x, gamma, beta, *options)
        elif self._are_samples:
            gamma, beta = (None if v is None else v.repeat(self._before) for v in (gamma, beta))
            rows, sizes = x.view(-1, self.count), (self.count,)
            y, mean, inverse = torch.native_layer_norm(rows, sizes, gamma, beta, epsilon)
            y = y.view(self.view_shape)
        elif self.is_differentiable:
            # A moving average that keeps nothing is the moment itself, of a sample of the whole.
            averages = x.new_zeros(2, self.channels)
            options = *averages, True, 1.0, epsilon
            gamma = x.new_ones(self.channels) if gamma is None else gamma
            y, mean, inverse = torch.native_batch_norm(x[0], gamma, beta, *options)
            y, mean, inverse = y[None], mean[None], inverse[None]
            variance = averages[1:] * ((self.count - 1) / self.count)
        else:
            mean, variance = self._moments(x)
            inverse = torch.rsqrt(variance + epsilon)
            y = None
        if not (is_near or is_exact(mean, inverse)):
            return None, mean, variance, inverse
        y = self.standardize(x, gamma, beta, mean, inverse) if y is None else y
        return y, mean, variance, inverse

    def standardize(self, x, gamma, beta, mean, inverse):
        """Returns the output for given moments."""
        if self.are_channels and not self._are_last:
            # Faster than what broadcasts along the last axis.
            options = mean[0], inverse[0] ** -2, False, 0.0, 0.0
            return torch.native_batch_norm(x[0], gamma, beta, *options)[0][None]
        scale = self._by_channel(inverse)
        scale = scale if gamma is None else scale * gamma
        beta = scale.new_zeros(()) if beta is None else beta
        offset = torch.addcmul(beta, self._by_channel(mean), scale, value=-1)
        return torch.addcmul(self._over_positions(offset), x, self._over_positions(scale))

    def gradients(self, g, x, gamma, mean, inverse):
        """Returns the gradients of input, gamma and beta."""
        if self._is_native:
            gamma = x.new_ones(self.channels) if gamma is None else gamma
            options = gamma, *self._native_sizes(), [True] * 3
            return group_norm_backward(g, x, mean, inverse, *options)
        mean, inverse = self._by_channel(mean), self._by_channel(inverse)
        sums, products = self.sums(g, x, mean)
        products = products * inverse[:, None]
        # The gradient is scale * g + slope * x + offset, and with inverse * (x - mean) for x:
        slope, offset = (
            self._by_channel(self._merge(v if gamma is None else v * gamma)) / -self._positions
            for v in (products, sums)
        )
        slope = slope * inverse * inverse
        offset = offset * inverse - slope * mean
        scale = inverse if gamma is None else inverse * gamma
        slope, offset, scale = map(self._over_positions, (slope, offset, scale))
        dx = torch.addcmul(offset, x, slope).addcmul_(g, scale)
        return dx, products.sum((0, 1)), sums.sum((0, 1))

    def sums(self, u, v, mean):
        """Returns the sums of u and of u * (v - mean), by sample, part and channel.

        The mean is by sample and channel, or by sample, part and channel.
        """
        mean = mean if mean.dim() == 3 else mean[:, None]
        mean = mean.expand(self._samples, self._parts, self.channels)
        if self._are_columns:
            found = self._sums_of_columns(u, v, mean)
        elif self._are_rows:
            found = self._sums_of_rows(u, v, mean)
        else:
            found = self._sums_of_products(u, v, mean)
        return [s.view(mean.shape) for s in found]

    def _sums_of_columns(self, u, v, mean):
        u, v = u.view(self._columns), v.view(self._columns)
        mean = mean.reshape(len(u), -1)
        found = [_native_sums(*call) for call in zip(u, v, mean, strict=True)]
        return map(torch.stack, zip(*found, strict=True))

    def _sums_of_rows(self, u, v, mean):
        rows = (1, -1, self._positions // self._blocks)
        mean = mean.reshape(-1, 1).expand(-1, self._blocks).flatten()
        found = _native_sums(u.view(rows), v.view(rows), mean)
        return (s.view(-1, self._blocks).sum(1) for s in found)

    def _sums_of_products(self, u, v, mean):
        """For sums too long, or samples too small, for native calls: a few samples at a time."""
        size = max(1, CHUNK // math.prod(self._split[1:]))
        u, v = u.view(self._split), v.view(self._split)
        between = torch.empty_like(u[:size])
        found = [
            (a.sum(self._axis), torch.mul(a, b, out=between[: len(a)]).sum(self._axis))
            for a, b in zip(u.split(size), v.split(size), strict=True)
        ]
        sums, products = (torch.cat(s).view(mean.shape) for s in zip(*found, strict=True))
        return sums, products - mean * sums

    def _moments(self, x):
        """Returns the means and variances of the sets."""
        if self._are_columns:
            found = [
                torch.batch_norm_update_stats(rows, None, None, 0.0)
                for rows in x.view(self._columns)
            ]
            means, variances = (
                torch.stack(v).view(self._samples, self._parts, self.channels)
                for v in zip(*found, strict=True)
            )
        else:
            # Shifted: squares of numbers with few bits would all be rounded the same way.
            shape = (self._samples, self._parts, self.channels)
            means = x.view(self._split).mean(self._axis).view(shape)
            sums, products = (s / self._positions for s in self.sums(x, x, means))
            variances = products - means * (sums - means)
        if self._parts == self._group_size == 1:
            return means[:, 0], variances[:, 0].clamp_(min=0)
        mean = self._merge(means)
        distances = means - self._by_channel(mean)[:, None]
        return mean, self._merge(variances + distances * distances).clamp_(min=0)

    def _merge(self, values):
        """Returns the means by sample and group of values by sample, part and channel."""
        return values.view(self._samples, self._parts, self._groups, -1).mean((1, 3))

    def _by_channel(self, values):
        """Returns values by sample and group by sample and channel."""
        if self._groups == self.channels:
            return values
        return values[:, :, None].expand(-1, -1, self._group_size).flatten(1)

    def _over_positions(self, values):
        """Returns values by sample and channel in a shape that broadcasts against the view."""
        return values[:, None] if self._are_last else values[:, None, :, None]

    def _native_sizes(self):
        return self._samples, self.channels, self._positions, self._groups


def _largest_divisor(number, most):
    """Returns the largest divisor of a number that is at most `most`."""
    return next(d for d in range(most, 0, -1) if number % d == 0)


def _divisor(number, longest):
    """Returns a divisor that leaves at most `longest` of a number, not many times less; else 1."""
    least = -(-number // longest)
    return next((d for d in range(least, 16 * least) if number % d == 0), 1)


def _native_sums(u, v, mean):
    """Returns the sums of u and of u * (v - mean) over all axes but the second."""
    mean = mean.contiguous()  # the native kernel takes it for that
    one = torch.ones_like(mean)
    options = one, None, None, mean, one, True, 0.0, [False, True, True]
    _, products, sums = batch_norm_backward(u, v, *options)
    return sums, products


def is_exact(mean, inverse):
    """Returns whether all means are so near zero that their rounding does not show."""
    return (mean * inverse).abs_().max().item() <= LARGEST_MEAN
