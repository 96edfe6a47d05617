"""The kernels as functions on tensors: they allocate buffers and launch kernels.

The functions take the user's tensors, the plan's order of their axes, and its form. Weights are in
the form already, with size 1 where they are broadcast. Moments are one buffer of shape
(4, samples, groups): count, shift, residual and variance. A tensor whose memory layout cannot be
viewed in the form is copied. Outputs are contiguous in the plan's order of axes.
"""

# Type checkers do not know the length of a starred tuple.
# mypy: disable-error-code="call-arg"

import torch

from keras_norm.kernels.autograd import wider
from keras_norm.kernels.triton import kernels, tiles

# The most elements of partial moments that a program merges at a time.
MERGED_ELEMENTS = 2048


def normalize(x, gamma, beta, weights, order, form, epsilon, centered):
    """Returns the output and the moments."""
    tile = tiles.tile_of_sets(form, x.itemsize)
    if tile is None:
        found = moments(x, weights, order, form, centered)
        return standardize(x, gamma, beta, weights, *found, order, form, epsilon), found
    y = empty(x, order)
    found = x.new_empty((4, form.samples, form.groups), dtype=wider(x.dtype))
    _launch(
        kernels.normalize_sets,
        tiles.programs(form, tile),
        tile,
        *(*_input(x, weights, order, form), _flat(gamma, order), _flat(beta, order)),
        *(*_strided(y, order, form), found, tuple(form), epsilon, centered, _type(x), tile),
    )
    return y, found


def moments(x, weights, order, form, centered):
    """Returns the moments of sets that are too large for a tile."""
    tile = tiles.tile_of_parts(form)
    divided = tiles.parts_of_moments(form, tile)
    dtype = wider(x.dtype)
    partial = x.new_empty((4, form.samples, divided.parts, form.groups), dtype=dtype)
    _launch(
        kernels.moments_of_parts,
        divided.programs,
        tile,
        *(*_input(x, weights, order, form), partial, tuple(form)),
        *(divided.parts, divided.steps, centered, _type(x), tile),
    )
    found = x.new_empty((4, form.samples, form.groups), dtype=dtype)
    each = tiles.power_of_2(divided.parts)
    sets = form.samples * form.groups
    several = tiles.power_of_2(sets, max(1, MERGED_ELEMENTS // each))
    _launch(
        kernels.merge_parts,
        -(-sets // several),
        (several, each),
        *(partial, found, form.samples, form.groups, divided.parts, centered, several, each),
    )
    return found


def standardize(x, gamma, beta, weights, count, shift, residual, variance, order, form, epsilon):
    """Returns the output for given moments."""
    y, tile = empty(x, order), tiles.tile_of_parts(form)
    _launch(
        kernels.standardize,
        tiles.programs(form, tile),
        tile,
        *(*_input(x, weights, order, form), count, shift, residual, variance),
        *(_flat(gamma, order), _flat(beta, order), *_strided(y, order, form)),
        *(tuple(form), epsilon, _type(x), tile),
    )
    return y


def backward(g, x, gamma, weights, moments, order, form, epsilon, centered, needs_parameters):
    """Returns the gradients of the input, gamma and beta; the last two None if not needed."""
    moments = tuple(moments)
    tile = tiles.tile_of_sets(form, x.itemsize)
    if tile is not None:
        dx = empty(x, order)
        _, *rest = _sums(
            g,
            x,
            gamma,
            weights,
            moments,
            order,
            form,
            epsilon,
            tile,
            needs_parameters,
            dx,
            centered,
        )
        return dx, *rest
    sums, *rest = sums_of_sets(
        g, x, gamma, weights, moments, order, form, epsilon, needs_parameters
    )
    dx = input_gradient(g, x, gamma, weights, moments, sums, order, form, epsilon, centered)
    return dx, *rest


def constant_backward(g, x, gamma, shift, variance, order, form, epsilon, needs_parameters):
    """Returns the same for moments that do not depend on the input."""
    tile, dx = tiles.tile_of_parts(form), empty(x, order)
    moments = None, shift, None, variance
    _, *rest = _sums(
        g, x, gamma, None, moments, order, form, epsilon, tile, needs_parameters, dx, constant=True
    )
    return dx, *rest


def sums_of_sets(g, x, gamma, weights, moments, order, form, epsilon, needs_parameters):
    """Returns sums of gradients: of sets, (2, samples, groups), and those of gamma and beta."""
    tile = tiles.tile_of_parts(form)
    return _sums(
        g, x, gamma, weights, moments, order, form, epsilon, tile, needs_parameters, dx=None
    )


def input_gradient(g, x, gamma, weights, moments, sums, order, form, epsilon, centered):
    """Returns the gradient of the input from the sums of its sets."""
    dx, tile = empty(x, order), tiles.tile_of_parts(form)
    _launch(
        kernels.gradients,
        tiles.programs(form, tile),
        tile,
        *(*_input(x, weights, order, form, g), *moments, _flat(gamma, order)),
        *(*_strided(dx, order, form), sums, tuple(form), epsilon, centered, _type(x), tile),
    )
    return dx


def _sums(
    g, x, gamma, weights, moments, order, form, epsilon, tile, needs_parameters, dx,
    centered=True, constant=False,
):  # fmt: skip
    """Launches `sum_gradients`, and adds up the partial sums of its programs."""
    divided = tiles.parts_of_gradients(form, tile)
    dtype = wider(x.dtype)
    set_sums = channel_sums = sums = None
    if dx is None:
        member_blocks = -(-form.group_size // tile[3])
        shape = 2, form.samples, divided.parts * member_blocks, form.groups
        set_sums = x.new_empty(shape, dtype=dtype)
    if needs_parameters:
        rows = divided.slices * divided.parts
        channel_sums = x.new_empty((2, rows, form.channels), dtype=dtype)
    strided = (None, None) if dx is None else _strided(dx, order, form)
    _launch(
        kernels.sum_gradients,
        divided.programs,
        tile,
        *(*_input(x, weights, order, form, g), *moments, _flat(gamma, order), *strided),
        *(set_sums, channel_sums, tuple(form), divided.parts, divided.steps),
        *(divided.sample_blocks, epsilon, centered, constant, _type(x), tile),
    )
    if set_sums is not None:
        sums = set_sums[:, :, 0] if set_sums.shape[2] == 1 else set_sums.sum(2)
    if channel_sums is None:
        return sums, None, None
    return sums, *channel_sums.sum(1).unbind()


def of_parameters(found, gamma, beta, order):
    """Returns gradients by channel as gradients of gamma and beta; None without."""
    return [
        None if v is None or gradient is None else _like(gradient, v, order)
        for gradient, v in zip(found, (gamma, beta), strict=True)
    ]


def _like(values, parameter, order):
    """Returns values by channel in the shape and dtype of gamma or beta."""
    ordered = values.reshape([parameter.shape[axis] for axis in order])
    return ordered.permute(inverse(order)).to(parameter.dtype)


def empty(x, order):
    """Returns a new tensor like `x` whose axes lie in memory in the given order."""
    sizes = [x.shape[axis] for axis in order]
    return x.new_empty(sizes).permute(inverse(order))


def inverse(order):
    """Returns the permutation that undoes another."""
    return sorted(range(len(order)), key=list(order).__getitem__)


def _strided(x, order, form):
    """Returns a tensor in the form, and its strides."""
    x = x.permute(order).reshape(form)
    return x, x.stride()


def _input(x, weights, order, form, g=None):
    """Returns input, gradient if there is one, and weights, with their strides."""
    sizes = None
    if weights is not None:
        sizes = (form.samples, form.before, 1, 1, form.after)
        weights = weights.expand(sizes)
    strided = *_strided(x, order, form), *(() if g is None else _strided(g, order, form))
    return *strided, weights, None if weights is None else weights.stride()


def _flat(parameter, order):
    return None if parameter is None else parameter.permute(order).reshape(-1)


def _type(x):
    return kernels.tl.float64 if x.dtype == torch.float64 else kernels.tl.float32


def _launch(kernel, programs, tile, *arguments):
    """Launches a kernel on the device of its first argument."""
    device = torch.xpu if arguments[0].is_xpu else torch.cuda
    with device.device_of(arguments[0]):
        kernel[(programs,)](*arguments, num_warps=tiles.warps(tile))
