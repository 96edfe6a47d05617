"""Kernels for PyTorch on the CPU, run eagerly.

PyTorch's native kernels run at nearly the speed of memory, but they keep a mean in one float32, and
some add up thousands of rows one after the other. So they are given what they are exact for: data
whose mean is within a deviation of zero (else what is left after subtracting the mean, at the cost
of a pass), and not too many rows at a time. The rest is written with those eager operations that
run at the speed of memory, a few samples at a time, so that what lies between two of them stays in
the cache. Kept for the backward pass are the input and the moments of its sets.

Everything else declines: other devices, compiled and exported graphs, `torch.func`, forward-mode
derivatives, subclasses of tensors, masks, and axes in an order that no kernel here knows.
"""

# Parts of classes that are put together are no whole classes to a type checker.
# mypy: disable-error-code="attr-defined, assignment"

import functools
import math
import re

import torch

from keras_norm import ops

aten = torch.ops.aten

# A mean of this many deviations may be rounded to a float32: it costs 2e-7. Of long columns, which
# are added up one after the other, a mean of one deviation costs as much.
LARGEST_MEAN = 2.0
LARGEST_MEAN_OF_COLUMN = 1.0
SHORT_COLUMN = 256
# Native kernels may add up this many rows, one after the other: it costs 1e-6.
LONGEST_COLUMN = 4096
# And this many elements that are neighbours in memory, which they add up in lanes.
LONGEST_ROW = 4096
# How many elements to work on at a time: few enough for the cache, many enough for two threads.
CHUNK = 1 << 18


def normalize(x, axes, epsilon, gamma=None, beta=None, weights=None, combine=None, split_open=True):
    """The kernel of `keras_norm.ops.normalize`."""
    if weights is not None or combine is not None or not _suit(x, gamma, beta):
        return None
    layout = _layout(tuple(x.shape), x.stride(), tuple(axes), _shape(gamma), _shape(beta))
    if layout is None:
        return None
    y, *moments = _Normalize.apply(*layout.views(x, gamma, beta), layout.sets, epsilon)
    return layout.unview(y), ops.Moments(
        x.new_tensor(layout.sets.count), *(layout.unview_moments(field) for field in moments)
    )


def standardize(x, moments, epsilon, gamma=None, beta=None, split_open=True):
    """The kernel of `keras_norm.ops.standardize`, for constant moments of channels."""
    mean, variance = moments.shift, moments.variance
    if moments.residual is not None or not _suit(x, mean, variance, gamma, beta):
        return None
    if mean.requires_grad or variance.requires_grad or mean.shape != variance.shape:
        return None
    if moments.count.dim() or moments.count <= 0:
        return None
    axes = tuple(axis for axis, size in enumerate(mean.shape) if size == 1)
    layout = _layout(tuple(x.shape), x.stride(), axes, _shape(gamma) or _shape(mean), _shape(beta))
    if layout is None or not isinstance(layout.sets, _Batch):
        return None
    views = layout.views(x, gamma, beta)
    y = _Standardize.apply(*views, layout.sets, epsilon, mean.flatten(), variance.flatten())
    return layout.unview(y)


def _suit(*tensors):
    """Returns whether a kernel may be given these tensors, here and now."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _is_transformed():
        return False
    tensors = [tensor for tensor in tensors if tensor is not None]
    return tensors[0].numel() > 0 and all(
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == tensors[0].dtype
        for tensor in tensors
    )


def _is_transformed():
    return (
        torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    )


def _shape(tensor):
    return None if tensor is None else tuple(tensor.shape)


class _Normalize(torch.autograd.Function):
    """A view of the input, flat gamma and beta to output, shift, residual and variance."""

    @staticmethod
    def forward(ctx, x, gamma, beta, sets, epsilon):
        shift = None
        y, mean, variance, inverse = sets.normalize(x, gamma, beta, epsilon)
        if not _is_small(mean, inverse, sets.largest_mean):
            shift = x.view(sets.shape).mean(sets.axes).view(sets.moments_shape)
            centered = x - sets.spread(shift)
            y, mean, variance, inverse = sets.normalize(centered, gamma, beta, epsilon)
        ctx.save_for_backward(x, gamma, shift, mean, inverse)
        ctx.sets, ctx.epsilon = sets, epsilon
        zero = torch.zeros_like(mean)
        shift, residual = (mean, zero) if shift is None else (shift, mean)
        ctx.mark_non_differentiable(shift, residual, variance)
        return y, shift, residual, variance

    @staticmethod
    def backward(ctx, gradient, *_):
        x, gamma, shift, mean, inverse = ctx.saved_tensors
        sets = ctx.sets
        if torch.is_grad_enabled() or _is_transformed():

            def plain(x, gamma, beta):
                return ops.normalize.__wrapped__(x, sets.axes, ctx.epsilon, gamma, beta)[0]

            gradients = _plain_gradients(plain, ctx, x, gamma, gradient)
        else:
            centered = x if shift is None else x - sets.spread(shift)
            gradients = sets.gradients(gradient.contiguous(), centered, gamma, mean, inverse)
        return *_needed(ctx, gradients), None, None


class _Standardize(torch.autograd.Function):
    """The same with given means and variances of channels, to the output."""

    @staticmethod
    def forward(ctx, x, gamma, beta, sets, epsilon, mean, variance):
        inverse = torch.rsqrt(variance + epsilon)
        ctx.save_for_backward(x, gamma, mean, variance, inverse)
        ctx.sets, ctx.epsilon = sets, epsilon
        if not _is_small(mean, inverse, LARGEST_MEAN):
            x, mean = x - sets.spread(mean), torch.zeros_like(mean)
        return sets.standardize(x, mean, variance, gamma, beta, epsilon)

    @staticmethod
    def backward(ctx, gradient):
        x, gamma, mean, variance, inverse = ctx.saved_tensors
        sets = ctx.sets
        if torch.is_grad_enabled() or _is_transformed():

            def plain(x, gamma, beta):
                m, v = (field.view(sets.parameter_shape) for field in (mean, variance))
                moments = ops.Moments(x.new_ones(()), m, None, v)
                return ops.standardize.__wrapped__(x, moments, ctx.epsilon, gamma, beta)

            gradients = _plain_gradients(plain, ctx, x, gamma, gradient)
        else:
            scale = inverse if gamma is None else inverse * gamma
            gradients = [gradient * sets.spread(scale), None, None]
            if any(ctx.needs_input_grad[1:3]):
                a, b = sets.sums(gradient.contiguous(), x - sets.spread(mean))
                gradients[1:] = b.sum(0) * inverse, a.sum(0)
        return *_needed(ctx, gradients), None, None, None, None


def _needed(ctx, gradients):
    return (
        g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False)
    )


def _plain_gradients(plain, ctx, x, gamma, gradient):
    """Returns gradients that can be differentiated again."""
    sets = ctx.sets
    with torch.enable_grad():
        beta = torch.zeros(sets.channels, dtype=x.dtype, requires_grad=True)
        inputs = [x, gamma, beta]
        needed = [i for i in range(3) if ctx.needs_input_grad[i]]
        parameters = (None if v is None else v.view(sets.parameter_shape) for v in (gamma, beta))
        y = plain(x.view(sets.shape), *parameters)
        found = torch.autograd.grad(
            y, [inputs[i] for i in needed], gradient.reshape(sets.shape), create_graph=True
        )
    gradients = [None] * 3
    for i, g in zip(needed, found, strict=True):
        gradients[i] = g
    return gradients


def _is_small(mean, inverse, limit):
    """Returns whether no mean is so many deviations from zero that its rounding would show."""
    return (mean * inverse).abs_().max().item() <= limit  # False for NaN


class _Rows:
    """Sets that are rows of a matrix; gamma and beta belong to its columns.

    The three classes of sets have in common: `largest_mean`, how many deviations from zero a mean
    may be before a shift is needed; `count`, how many elements a set has; `channels`, the
    size of gamma; and the `shape` of the input, the `axes` that a set extends over and the shape of
    gamma, for the plain functions.
    """

    largest_mean = LARGEST_MEAN

    def __init__(self, rows, columns):
        self.count = self.channels = columns
        self.moments_shape = (rows, 1)
        self.shape, self.axes, self.parameter_shape = (rows, columns), (1,), (1, columns)
        self.view_shape = self.shape

    def spread(self, moment):
        """Returns a moment in a shape that broadcasts against the input."""
        return moment

    def normalize(self, x, gamma, beta, epsilon):
        """Returns output, mean, variance and 1 / sqrt(variance + epsilon)."""
        y, mean, inverse = aten.native_layer_norm(x, x.shape[1:], gamma, beta, epsilon)
        return y, mean, _variance(inverse, epsilon), inverse

    def gradients(self, g, x, gamma, mean, inverse):
        """Returns the gradients of input, gamma and beta."""
        gamma = x.new_ones(self.channels) if gamma is None else gamma
        beta = torch.zeros_like(gamma)
        found = [
            aten.native_layer_norm_backward(*part, x.shape[1:], *rest, gamma, beta, [True] * 3)
            for *part, rest in zip(
                g.split(LONGEST_COLUMN),
                x.split(LONGEST_COLUMN),
                zip(mean.split(LONGEST_COLUMN), inverse.split(LONGEST_COLUMN), strict=True),
                strict=True,
            )
        ]
        if len(found) == 1:
            return found[0]
        dx, dgamma, dbeta = zip(*found, strict=True)
        return torch.cat(dx), sum(dgamma), sum(dbeta)


class _Channels:
    """What the next two have in common: channels of samples, and sums over their positions.

    Args:
        samples: How many.
        positions: How many in a sample.
        channels: How many.
        last: Whether the channels are the last axis of the view, else they are the second.
    """

    def __init__(self, samples, positions, channels, last):
        self.positions, self.channels, self.last = positions, channels, last
        sizes = (positions, channels) if last else (channels, positions)
        self.view_shape = (samples, *sizes)
        # Whether a native call for each sample is worth it, and exact.
        is_worth_it = samples == 1 or positions * channels >= 1 << 15
        self._one_by_one = last and positions <= LONGEST_COLUMN and is_worth_it
        is_short = not last or positions <= SHORT_COLUMN
        self.largest_mean = LARGEST_MEAN if is_short else LARGEST_MEAN_OF_COLUMN
        self._chunk = max(1, CHUNK // (positions * channels))

    def over_positions(self, values):
        """Returns values by sample and channel in a shape that broadcasts against the view."""
        return values.unsqueeze(1 if self.last else 2)

    def sums(self, u, v):
        """Returns the sums of u and of u * v over the positions, by sample and channel."""
        if self._one_by_one:
            one, zero = u.new_ones(self.channels), u.new_zeros(self.channels)
            options = (one, None, None, zero, one, True, 0.0, [False, True, True])
            sums = [
                aten.native_batch_norm_backward(*pair, *options) for pair in zip(u, v, strict=True)
            ]
            return torch.stack([s[2] for s in sums]), torch.stack([s[1] for s in sums])
        axis = 1 if self.last else 2
        product = torch.empty_like(u[: self._chunk])
        sums = [], []
        for part, other in zip(u.split(self._chunk), v.split(self._chunk), strict=True):
            sums[1].append(torch.mul(part, other, out=product[: len(part)]).sum(axis))
            sums[0].append(part.sum(axis))
        return tuple(torch.cat(s) for s in sums)

    def moments(self, x):
        """Returns the means and variances of the sets."""
        if self._one_by_one:
            # Not the sums of x * x: added up one after the other, squares of numbers with few bits
            # are all rounded the same way.
            found = [torch.batch_norm_update_stats(part, None, None, 0.0) for part in x]
            means, variances = (torch.stack(field) for field in zip(*found, strict=True))
        else:
            means, squares = (v / self.positions for v in self.sums(x, x))
            variances = squares - means * means
        mean = self.merge(means)
        distances = means - self.by_channel(mean)
        return mean, self.merge(variances + distances * distances).clamp_(min=0)

    def gradients(self, g, x, gamma, mean, inverse):
        """Returns the gradients of input, gamma and beta."""
        sums, products = self.sums(g, x)
        mean, inverse = self.by_channel(mean), self.by_channel(inverse)
        products = (products - mean * sums) * inverse
        scale = inverse if gamma is None else inverse * gamma
        slope, offset = (
            self.by_channel(self.merge(v if gamma is None else v * gamma)) / -self.positions
            for v in (products, sums)
        )
        # The gradient is scale * g + slope * x + offset, and with inverse * (x - mean) for x:
        slope = slope * inverse * inverse
        offset = offset * inverse - slope * mean
        slope, offset, scale = (self.over_positions(v) for v in (slope, offset, scale))
        dx = torch.empty_like(x)
        between = torch.empty_like(x[: self._chunk])
        for i in range(0, len(x), self._chunk):
            part = slice(i, i + self._chunk)
            own = part if len(offset) > 1 else slice(None)
            out = between[: len(x[part])]
            torch.addcmul(offset[own], x[part], slope[own], out=out)
            torch.addcmul(out, g[part], scale[own], out=dx[part])
        return dx, products.sum(0), sums.sum(0)


class _Batch(_Channels):
    """Sets that are channels of a batch; gamma and beta belong to them."""

    def __init__(self, samples, positions, channels, last):
        if last:
            # Rows of channels: parts of them take the place of samples.
            rows = samples * positions
            sizes = range(min(rows, LONGEST_COLUMN), 255, -1)
            positions = next((size for size in sizes if rows % size == 0), rows)
            samples = rows // positions
        super().__init__(samples, positions, channels, last)
        self.count = samples * positions
        self.moments_shape = (channels,)
        self.shape, self.axes = self.view_shape, (0, 1) if last else (0, 2)
        self.parameter_shape = (1, 1, channels) if last else (1, channels, 1)
        # Whether native kernels are exact with all samples in one go.
        self._at_once = self.count <= LONGEST_COLUMN if last else positions <= LONGEST_ROW

    def spread(self, moment):
        return moment.view(self.parameter_shape)

    def by_channel(self, moment):
        return moment[None]

    def merge(self, values):
        return values.mean(0)

    def normalize(self, x, gamma, beta, epsilon):
        mean, variance = self.moments(x)
        y = self.standardize(x, mean, variance, gamma, beta, epsilon)
        return y, mean, variance, torch.rsqrt(variance + epsilon)

    def standardize(self, x, mean, variance, gamma, beta, epsilon):
        """Returns the output for given moments."""
        options = (gamma, beta, mean, variance, False, 0.0, epsilon)
        return aten.native_batch_norm(self._native(x), *options)[0].view(self.view_shape).detach()

    def gradients(self, g, x, gamma, mean, inverse):
        if not self._at_once:
            return super().gradients(g, x, gamma, mean, inverse)
        options = (gamma, None, None, mean, inverse, True, 0.0, [True] * 3)
        dx, *rest = aten.native_batch_norm_backward(self._native(g), self._native(x), *options)
        return dx.view(self.view_shape), *rest

    def _native(self, x):
        return x.view(-1, self.channels) if self.last else x


class _Groups(_Channels):
    """Sets that are groups of channels of a sample; gamma and beta belong to the channels."""

    def __init__(self, samples, positions, groups, group_size, last):
        super().__init__(samples, positions, groups * group_size, last)
        self._groups, self._group_size = groups, group_size
        self.count = positions * group_size
        self.moments_shape = (samples, groups)
        if last:
            self.shape, self.axes = (samples, positions, groups, group_size), (1, 3)
            self.parameter_shape = (1, 1, groups, group_size)
        else:
            self.shape, self.axes = (samples, groups, group_size, positions), (2, 3)
            self.parameter_shape = (1, groups, group_size, 1)

    def spread(self, moment):
        return self.over_positions(self.by_channel(moment))

    def by_channel(self, moment):
        return moment.repeat_interleave(self._group_size, 1)

    def merge(self, values):
        return values.view(-1, self._groups, self._group_size).mean(2)

    def gradients(self, g, x, gamma, mean, inverse):
        if self.last or self.positions > LONGEST_ROW:
            return super().gradients(g, x, gamma, mean, inverse)
        gamma = x.new_ones(self.channels) if gamma is None else gamma
        options = (gamma, *self._sizes(x), [True] * 3)
        return aten.native_group_norm_backward(g, x, mean, inverse, *options)

    def _sizes(self, x):
        return len(x), self.channels, self.positions, self._groups

    def normalize(self, x, gamma, beta, epsilon):
        if not self.last:
            options = (*self._sizes(x), epsilon)
            y, mean, inverse = aten.native_group_norm(x, gamma, beta, *options)
            return y, mean, _variance(inverse, epsilon), inverse
        mean, variance = self.moments(x)
        inverse = torch.rsqrt(variance + epsilon)
        scale = self.by_channel(inverse)
        scale = scale if gamma is None else scale * gamma
        offset = -self.by_channel(mean) * scale
        offset = offset if beta is None else offset + beta
        y = torch.addcmul(self.over_positions(offset), x, self.over_positions(scale))
        return y, mean, variance, inverse


def _variance(inverse, epsilon):
    return (inverse**-2 - epsilon).clamp_(min=0)


class _Layout:
    """How a tensor lies in memory: which of its axes are which in the view that kernels take."""

    def __init__(self, sizes, order, axes, sets):
        self.sets = sets
        self._order = order
        self._is_ordered = list(order) == sorted(order)
        self._back = sorted(range(len(order)), key=order.__getitem__)
        self._sizes = [sizes[axis] for axis in order]
        self._moments_sizes = [1 if axis in axes else sizes[axis] for axis in order]

    def views(self, x, gamma, beta):
        """Returns the input as the kernels take it, gamma and beta flat."""
        view = self._sorted(x).contiguous().view(self.sets.view_shape)
        flat = (None if v is None else self._sorted(v).reshape(-1) for v in (gamma, beta))
        return view, *flat

    def unview(self, view):
        return self._unsorted(view.view(self._sizes))

    def unview_moments(self, moment):
        return self._unsorted(moment.view(self._moments_sizes))

    def _sorted(self, x):
        return x if self._is_ordered else x.permute(self._order)

    def _unsorted(self, x):
        return x if self._is_ordered else x.permute(self._back)


# Runs of axes, as they lie in memory, in letters: B and G are kept, S and D are reduced; G and D
# are spanned by gamma and beta.
BATCH = re.compile("(S?)(G)(S?)")
GROUPS_LAST = re.compile("(B?)(S)(G?)(D?)")
GROUPS_FIRST = re.compile("(B?)(G?)(D?)(S?)")


@functools.lru_cache(maxsize=1024)
def _layout(sizes, strides, axes, gamma_shape, beta_shape):
    """Returns the `_Layout` of a problem, or None if no kernel knows it."""
    parameters = gamma_shape or beta_shape
    if None not in (gamma_shape, beta_shape) and gamma_shape != beta_shape:
        return None
    order = sorted(range(len(sizes)), key=lambda axis: -strides[axis])
    runs = []
    for axis in order:
        if sizes[axis] > 1:
            spanned = parameters is not None and parameters[axis] > 1
            letter = ("G" if spanned else "B", "D" if spanned else "S")[axis in axes]
            if runs and runs[-1][0] == letter:
                runs[-1][1] *= sizes[axis]
            else:
                runs.append([letter, sizes[axis]])
    sets = _sets("".join(letter for letter, _ in runs), [size for _, size in runs], parameters)
    return None if sets is None else _Layout(sizes, order, axes, sets)


def _sets(letters, sizes, parameters):
    """Returns the sets of a problem that its letters describe, or None."""
    if parameters is None:
        if letters in ("S", "BS"):
            return _Rows(math.prod(sizes[:-1]), sizes[-1])
        letters = letters.replace("B", "G")  # without parameters a kept axis may count as spanned
    elif letters in ("D", "BD"):
        return _Rows(math.prod(sizes[:-1]), sizes[-1])
    for pattern in (BATCH, GROUPS_LAST, GROUPS_FIRST):
        match = pattern.fullmatch(letters)
        if match and ("S" in letters or "D" in letters):
            remaining = iter(sizes)
            found = [next(remaining) if letter else 1 for letter in match.groups()]
            if pattern is BATCH:
                before, channels, after = found
                return _Batch(before, after, channels, last=after == 1)
            if pattern is GROUPS_LAST:
                samples, positions, groups, group_size = found
                return _Groups(samples, positions, groups, group_size, last=True)
            samples, groups, group_size, positions = found
            return _Groups(samples, positions, groups, group_size, last=False)
    return None
