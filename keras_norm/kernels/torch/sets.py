"""The sets of a form, and the fast operations on them.

Some operations of eager PyTorch run at the speed of memory; others are ten times slower. Some fast
ones keep a mean in one float32, or add up thousands of rows sequentially. This module uses the fast
operations, and is exact for data whose means are near zero (`are_near`). Two operations are used
for purposes that their names do not show:

- `native_batch_norm_backward`, with only the gradients of scale and offset requested, computes two
  sums in one pass over its arguments.
- `native_batch_norm`, with moments 0 and 1, scales and shifts contiguous rows by one number per
  row. Broadcasting along the last axis would take twice as long.

The input is viewed as a matrix of rows, or as `(samples, before, channels, after)`. Arrays by set
have shape `(samples, groups)`, arrays by channel `(samples, channels)`, gamma and beta
`(channels,)`.
"""

import functools
import math

import torch

from keras_norm.kernels.autograd import HALF, wide, wider

# With the overload chosen here, a call costs half as much.
layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default
group_norm_backward = torch.ops.aten.native_group_norm_backward.default

# Limits that bound the error (2-norm, relative to float64), measured by benchmarks/accuracy.py. The
# package promises 2e-6.
# A mean up to this many standard deviations may be rounded to a float32: the error is 2e-7, or 1e-6
# for columns, which are summed sequentially.
LARGEST_ROUNDED_MEAN = 3.0
# Rows that a native kernel may add sequentially: the error is 1e-6, or 2e-6 for shifted data, whose
# few bits are all rounded in the same direction.
LONGEST_COLUMN = 512
# The same where several rows are taken as one: the error is below 1e-6.
SHORT_COLUMN = 256
# The same for the gradients of gamma and beta, in each thread: the error is 1e-6; of beta 5e-5, if
# the gradients of many rows are equal, as before a pooling layer. No other result depends on it.
LONGEST_COLUMN_OF_ROWS = 4096
# Contiguous elements that a native kernel may sum; it sums them in vector lanes.
LONGEST_ROW = 4096
# Elements of a set whose gradient a native kernel may compute: the error is 1e-6.
LONGEST_SET = 1 << 14

# Limits in elements that affect only the speed, measured by `python -m benchmarks`.
# Rows up to this long are added up fast.
WIDEST_ROW = 512
# Samples at least this long are worth a separate native call.
SMALLEST_SAMPLE = 1 << 15
# At least this many samples are worth a copy of gamma and beta for each position.
FEWEST_SAMPLES = 4
# Elements to process at a time, so that intermediate values stay in the cache.
CHUNK = 1 << 19


def are_near(mean, inverse, largest=LARGEST_ROUNDED_MEAN):
    """Returns whether all means are near zero: at most `largest` standard deviations."""
    return torch.linalg.vector_norm(mean * inverse, math.inf).item() <= largest


class Rows:
    """Sets that are rows of a matrix; gamma and beta belong to its columns.

    A mask, if there is one, makes whole sets valid or invalid.
    """

    takes_16_bits = True
    is_native = True

    def __init__(self, form):
        self.shape = form.samples, form.group_size
        self.count = form.group_size
        self._are_short = self.count <= LONGEST_SET

    def mask_shape(self, form):
        """Returns the sizes of a mask of the given form in the view."""
        return form.samples, 1

    def shifted(self, x, shift, out=None):
        """Returns an input minus its shift by set (or None), in at least float32."""
        return wide(x) if shift is None else torch.sub(wide(x), shift, out=out)

    def spread(self, values):
        """Returns numbers by channel in a shape that broadcasts against the view."""
        return values

    def normalize(self, x, gamma, beta, epsilon, centered=True):
        """Returns output, mean, None for the variance, and 1 / sqrt(variance + epsilon)."""
        if not centered:
            return self._normalize_by_square(x, gamma, beta, epsilon)
        gamma = self._ones(x) if gamma is None else gamma
        y, mean, inverse = torch.native_layer_norm(x, self.shape[1:], gamma, beta, epsilon)
        return y, mean, None, inverse

    def _normalize_by_square(self, x, gamma, beta, epsilon):
        """Normalizes without centring; the output is the only array of the input's size."""
        values = wide(x)
        square = self._sums_of_squares(values).div_(self.count)
        inverse = square.add_(epsilon).rsqrt_()
        y = values * inverse if values is x else values.mul_(inverse)
        y = y if gamma is None else y.mul_(gamma)
        y = y if beta is None else y.add_(beta)
        return y, torch.zeros_like(inverse), None, inverse

    def _sums_of_squares(self, x):
        """Returns the sums of the squares of rows, long ones added up in blocks."""
        if self.count <= LONGEST_ROW:
            return torch.linalg.vector_norm(x, dim=1, keepdim=True).square_()
        blocks = self.count // LONGEST_ROW
        bulk = x[:, : blocks * LONGEST_ROW].unflatten(1, (blocks, LONGEST_ROW))
        parts = bulk, x[:, None, blocks * LONGEST_ROW :]
        lengths = [torch.linalg.vector_norm(part, dim=2) for part in parts if part.numel()]
        return torch.cat(lengths, 1).square_().sum(1, keepdim=True)

    def gradients(self, g, x, gamma, mean, inverse, centered, weights, count, needed):
        """Returns the gradients of input, gamma and beta.

        With u = gamma * g and h = inverse * (x - mean), the gradients are

            inverse * (u - mean(u) - h * mean(u * h)),  sum(g * h),  sum(g)

        where the last two sums run over the rows. Without centring, the term mean(u) is left out.
        """
        gamma = self._ones(x) if gamma is None else gamma
        arrays = g, x, mean, inverse
        longest = LONGEST_COLUMN_OF_ROWS * torch.get_num_threads() if any(needed[1:]) else len(g)
        in_cache = max(1, CHUNK // self.count)
        longest = longest if centered else min(longest, 2 * in_cache)
        if len(g) <= longest:
            return self._gradients(needed, centered, gamma, *arrays)
        # Filled in parts: concatenating the parts would take another array of this size.
        dx, columns = torch.empty_like(x), []
        size = min(longest, in_cache)
        for *part, out in zip(*(v.split(size) for v in (*arrays, dx)), strict=True):
            found, *sums = self._gradients(needed, centered, gamma, *part)
            out.copy_(found)
            columns.append(sums)
        return dx, *_totals(columns)

    def _gradients(self, needed, centered, gamma, g, x, mean, inverse):
        """Returns the gradients for rows that one native call adds up accurately."""
        options = [self._are_short, *needed[1:]]
        dx, *columns = layer_norm_backward(
            g, x, self.shape[1:], mean, inverse, gamma, gamma, options
        )
        if not self._are_short:
            dx = self._gradient_of_long_rows(g * gamma, x, mean, inverse, centered)
        elif not centered:
            # With a mean of 0, the native function still subtracts inverse * mean(u).
            dx.add_(inverse * torch.mv(g, gamma)[:, None] / self.count)
        return dx, *columns

    def _gradient_of_long_rows(self, u, x, mean, inverse, centered):
        """Returns the gradient above as inverse * u + slope * x + offset, with PyTorch's sums."""
        first = u.mean(1, keepdim=True) if centered else torch.zeros_like(mean)
        second = (u * x).mean(1, keepdim=True) - mean * first
        slope = second * inverse * -inverse * inverse
        offset = first * -inverse - slope * mean
        return torch.addcmul(offset, x, slope).addcmul_(u, inverse)

    def _ones(self, x):
        # PyTorch takes the moments' dtype from gamma.
        return x.new_ones(self.count, dtype=wider(x.dtype))


class Channels:
    """Sets that are channels, or groups of channels, of a sample; gamma and beta span the channels.

    A batch, whose samples share their moments, is one sample here.
    """

    takes_16_bits = False

    def __init__(self, form):
        self._samples, self._before, self._groups, self._group_size, self._after = form
        self._channels, self.count = form.channels, form.count
        self.shape = self._samples, self._before, self._channels, self._after
        self._rows = (-1, form.channels, form.after)
        self._are_last = form.after == 1
        self.are_batch = form.is_batch
        # The forms that PyTorch's group normalization takes.
        are_rows_short = form.after <= LONGEST_ROW
        self.is_native = form.before == 1 and are_rows_short and not self.are_batch
        # PyTorch's batch normalization sums rows in vector lanes, and adds the sums sequentially.
        # This is fast and accurate enough for gradients. For moments it is slow, except for few
        # elements.
        self._has_batch_gradients = (
            self.are_batch and are_rows_short and form.before <= LONGEST_COLUMN
        )
        self._is_small_batch = self.are_batch and form.count <= LONGEST_COLUMN
        # Samples that are whole sets, and rows in memory: few would not be worth a repeated gamma.
        enough = max(FEWEST_SAMPLES, torch.get_num_threads())
        self._are_rows = form.groups == form.after == 1 and form.samples >= enough
        # Sums run over the positions of one part of a sample: native sums by `_calls`, each over
        # `_blocks` of the positions.
        (self._split_columns if self._are_last else self._split_rows)()
        self._sums = self._sums_by_native_calls if self._has_native_sums else self._sums_of_products

    def mask_shape(self, form):
        """Returns the sizes of a mask of the given form in the view."""
        return form.samples, form.before, 1, form.after

    def shifted(self, x, shift, out=None):
        """Returns an input minus its shift by set (or None), in at least float32."""
        if shift is None:
            return wide(x)
        return torch.sub(wide(x), self.spread(self.by_channel(shift)), out=out)

    def _split_rows(self):
        """Sets how many elements of a row are summed at a time."""
        self._parts, self._positions = self._before, self._after
        self._split: tuple = (self._samples, self._parts, self._channels, self._positions)
        self._axis = 3
        self._blocks = _divisor(self._positions, LONGEST_ROW)
        length = self._positions // self._blocks
        self._calls: tuple = (1, 1, -1, length)
        self._has_native_sums = length <= LONGEST_ROW

    def _split_columns(self):
        """Chooses how many rows of channels to add up at a time."""
        # Neighbouring rows are viewed as one longer row, which is faster. A call adds up as many of
        # these as native kernels sum accurately.
        before = self._before
        width = min(WIDEST_ROW // self._channels, before // SHORT_COLUMN)
        width = next(d for d in range(max(1, width), 0, -1) if before % d == 0)
        calls = _divisor(before // width, LONGEST_COLUMN)
        self._parts, self._positions = calls * width, before // (calls * width)
        self._split = (self._samples, calls, self._positions, width, self._channels)
        self._axis = 2
        self._blocks = 1
        self._calls = (-1, self._positions, width * self._channels)
        are_worth_calls = self._samples == 1 or before * self._channels >= SMALLEST_SAMPLE
        self._has_native_sums = self._positions <= LONGEST_COLUMN and are_worth_calls

    def normalize(self, x, gamma, beta, epsilon, centered=True):
        """Returns output, mean, variance and 1 / sqrt(variance + epsilon), for sets without a mask.

        The output or the variance is None if the native function does not return it.
        """
        if centered and self.is_native:
            sizes = self._samples, self._channels, self._after, self._groups
            y, mean, inverse = torch.native_group_norm(x, gamma, beta, *sizes, epsilon)
        elif centered and self._is_small_batch:
            rows = x.view(self._rows)
            y, *found = torch.native_batch_norm(rows, gamma, beta, None, None, True, 0.0, epsilon)
            mean, inverse = (v.view(1, -1) for v in found)
            y = y.view(x.shape)
        elif centered and self._are_rows:
            gamma, beta = (None if v is None else v.repeat(self._before) for v in (gamma, beta))
            options = (self.count,), gamma, beta, epsilon
            y, mean, inverse = torch.native_layer_norm(x.view(self._samples, -1), *options)
            y = y.view(x.shape)
        else:
            mean, variance = self.moments(x, centered)
            return None, mean, variance, torch.rsqrt(variance + epsilon)
        return y, mean, None, inverse

    def moments(self, x, centered=True, has_zeros=False):
        """Returns the means and variances of the sets, or 0 and the mean squares.

        With `has_zeros`, for padding, zeros add nothing to a sum. In PyTorch's variance, each would
        add the same square of the mean, and all would be rounded in one direction.
        """
        mean, variance = self._moments(x, has_zeros)
        return (mean, variance) if centered else (torch.zeros_like(mean), variance + mean * mean)

    def _moments(self, x, has_zeros):
        shape = (self._samples, self._parts, self._channels)
        if self._are_last and self._has_native_sums and not has_zeros:
            rows = x.view(self._calls)
            found = [torch.batch_norm_update_stats(v, None, None, 0.0) for v in rows]
            means, variances = (torch.stack(v).view(shape) for v in zip(*found, strict=True))
        else:
            # Shifted, as squares of numbers with few bits would all be rounded in one direction.
            means = x.view(self._split).mean(self._axis).view(shape)
            sums, products = (s / self._positions for s in self.sums(x, x, means))
            variances = products - means * (sums - means)
        if self._parts == self._group_size == 1:
            return means[:, 0], variances[:, 0].clamp_(min=0)
        mean = self._merge(means)
        distances = means - self.by_channel(mean)[:, None]
        return mean, self._merge(variances + distances * distances).clamp_(min=0)

    def infer(self, x, gamma, beta, mean, variance, epsilon):
        """Returns the output of a batch for stored moments near zero, without derivatives.

        With channels last, a multiplication and addition takes less time than the native function,
        except in 16 bits, which would have to be converted first.
        """
        if self._are_last and x.dtype not in HALF:
            inverse = torch.rsqrt(variance + epsilon)
            return self.affine(x, *self.scale_and_offset(gamma, beta, mean[None], inverse[None]))
        moments = mean, variance, False, 0.0, epsilon
        return torch.native_batch_norm(x.view(self._rows), gamma, beta, *moments)[0].view(x.shape)

    def affine(self, x, scale, offset, out=None):
        """Returns scale * x + offset, with scale and offset by channel."""
        if self._are_last:
            return torch.addcmul(self.spread(offset), x, self.spread(scale), out=out)
        rows = x.view(1, -1, self._after)
        shape = self._samples, self._parts, self._channels
        scale, offset = (v[:, None].expand(shape).reshape(-1) for v in (scale, offset))
        zero, one = scale.new_zeros(scale.shape), scale.new_ones(scale.shape)
        return torch.native_batch_norm(rows, scale, offset, zero, one, False, 0.0, 0.0)[0].view(
            x.shape
        )

    def scale_and_offset(self, gamma, beta, mean, inverse):
        """Returns the scale and the offset, by channel, that standardize with given moments."""
        scale = self.by_channel(inverse)
        scale = scale if gamma is None else scale * gamma
        beta = scale.new_zeros(()) if beta is None else beta
        return scale, torch.addcmul(beta, self.by_channel(mean), scale, value=-1)

    def spread(self, values):
        """Returns numbers by channel in a shape that broadcasts against the view."""
        return values.view(-1, 1, self._channels, 1)

    def gradients(self, g, x, gamma, mean, inverse, centered, weights, count, needed):
        """Returns the gradients of input, gamma and beta.

        With u = gamma * g, h = inverse * (x - mean), weights w (1, or 0 for padding) and sums over
        a set of `count` valid elements,

            inverse * (u - w * (sum(u) + h * sum(u * h)) / count)
          = scale * g + w * (slope * x + offset)
            scale = inverse * gamma, slope = -inverse * inverse * sum(u * h) / count
            offset = -inverse * sum(u) / count - slope * mean

        Without centring, the term sum(u) is left out.
        """
        if self.is_native and centered and weights is None:
            gamma = x.new_ones(self._channels) if gamma is None else gamma
            sizes = self._samples, self._channels, self._after, self._groups
            return group_norm_backward(g, x, mean, inverse, gamma, *sizes, [True] * 3)
        if self._has_batch_gradients and centered and weights is None:
            rows = (v.view(self._rows) for v in (g, x))
            options = None, None, mean.view(-1), inverse.view(-1), True, 0.0, [True] * 3
            dx, *parameters = batch_norm_backward(*rows, gamma, *options)
            return dx.view(x.shape), *parameters
        sums, products = self.sums(g, x, self.by_channel(mean)[:, None])
        products = products * self.by_channel(inverse)[:, None]
        first, second = (self.by_set(v, gamma) / count for v in (sums, products))
        slope = second * -inverse * inverse
        offset = first * -inverse - slope * mean if centered else torch.zeros_like(mean)
        dx = self.affine(x, self.by_channel(slope), self.by_channel(offset))
        dx = dx if weights is None else dx.mul_(weights)
        dx = self._add_scaled(dx, g, gamma, inverse)
        return dx, products.sum((0, 1)), sums.sum((0, 1))

    def _add_scaled(self, dx, g, gamma, inverse):
        scale = self.by_channel(inverse)
        scale = scale if gamma is None else scale * gamma
        if self._are_last:
            return dx.addcmul_(g, self.spread(scale))
        return dx.add_(self.affine(g, scale, torch.zeros_like(scale)))

    def sums(self, u, v, mean):
        """Returns the sums of u and of u * (v - mean), by sample, part and channel."""
        mean = mean.expand(self._samples, self._parts, self._channels)
        return [s.view(mean.shape) for s in self._sums(u, v, mean)]

    def _sums_by_native_calls(self, u, v, mean):
        """Sums in a few calls of a native kernel, each over few enough positions."""
        u, v = u.view(self._calls), v.view(self._calls)
        mean = mean[..., None].expand(-1, -1, -1, self._blocks).reshape(len(u), -1)
        found = [_native_sums(*call) for call in zip(u, v, mean, strict=True)]
        return (torch.stack(s).view(-1, self._blocks).sum(1) for s in zip(*found, strict=True))

    def _sums_of_products(self, u, v, mean):
        """Sums a few samples at a time: sums too long, or samples too small, for native calls."""
        size = max(1, CHUNK // math.prod(self._split[1:]))
        u, v = u.view(self._split), v.view(self._split)
        between = torch.empty_like(u[:size])
        found = [
            (a.sum(self._axis), torch.mul(a, b, out=between[: len(a)]).sum(self._axis))
            for a, b in zip(u.split(size), v.split(size), strict=True)
        ]
        sums, products = (torch.cat(s).view(mean.shape) for s in zip(*found, strict=True))
        return sums, products - mean * sums

    def by_set(self, values, gamma):
        """Returns the sums by set of gamma times numbers by sample, part and channel."""
        values = values if gamma is None else values * gamma
        return values.view(self._samples, self._parts, self._groups, -1).sum((1, 3))

    def _merge(self, values):
        """Returns the means by set of values by sample, part and channel."""
        return values.view(self._samples, self._parts, self._groups, -1).mean((1, 3))

    def by_channel(self, values):
        """Returns an array by set as an array by channel."""
        if self._groups == self._channels:
            return values
        return values[:, :, None].expand(-1, -1, self._group_size).flatten(1)


def _divisor(number, longest):
    """Returns a divisor of `number` whose quotient is at most, but near, `longest`; else 1."""
    least = -(-number // longest)
    return next((d for d in range(least, 16 * least) if number % d == 0), 1)


def _totals(parts):
    """Returns the sum of each column of tuples of arrays; None where the arrays are None."""
    return [
        None if v[0] is None else functools.reduce(torch.add, v) for v in zip(*parts, strict=True)
    ]


def _native_sums(u, v, mean):
    """Returns the sums of u and of u * (v - mean) over all axes but the second."""
    mean = mean.contiguous()  # the native kernel assumes it
    one = torch.ones_like(mean)
    options = one, None, None, mean, one, True, 0.0, [False, True, True]
    _, products, sums = batch_norm_backward(u, v, *options)
    return sums, products
