"""The kernels in Triton's language.

Each kernel works on an input in the plan's form, (samples, before, groups, group size, after). A
tile is a block of this form: a block of samples, a block of positions before the channels, and so
on. All problems share this addressing; a part that an input lacks has size 1.

Common arguments:
    sizes: The five sizes of the form.
    *_strides: The five strides of a tensor, in elements; 0 where a mask is broadcast.
    weights: Mask of 0s and 1s, or None.
    count, shift, residual, variance: Moments by sample and group, contiguous. A count of None means
        that no set is empty, a residual of None means 0.
    gamma, beta: By channel (group and member), contiguous, or None.
    WIDE: The type of the computation, whatever the input's.
    TILE: The five sizes of a tile, powers of 2.

Offsets have 64 bits. Sums over a set have a fixed order, without atomics.
"""

# Triton compiles these functions and has its own types.
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def block(index, SIZE: tl.constexpr):
    """Returns the 64-bit indices of a block."""
    return index.to(tl.int64) * SIZE + tl.arange(0, SIZE)


@triton.jit
def set_places(at, sizes):
    """Returns the offsets of moments in a buffer by sample and group, and the size of a field."""
    # For the compiler, a size of 1 is a constant without methods; the sum with 0 is a number.
    return at[0] * sizes[2] + at[2], (at[0] * 0 + sizes[0]) * sizes[2]


@triton.jit
def tile_indices(i, j, k, m, a, TILE: tl.constexpr):
    """Returns the indices of a tile's elements, from the indices of its blocks."""
    return (
        block(i, TILE[0])[:, None, None, None, None],
        block(j, TILE[1])[None, :, None, None, None],
        block(k, TILE[2])[None, None, :, None, None],
        block(m, TILE[3])[None, None, None, :, None],
        block(a, TILE[4])[None, None, None, None, :],
    )


@triton.jit
def offsets(at, strides):
    """Returns the offsets of elements in a tensor."""
    positions = at[1] * strides[1] + at[4] * strides[4]
    return at[0] * strides[0] + positions + at[2] * strides[2] + at[3] * strides[3]


@triton.jit
def is_inside(at, sizes):
    """Returns which elements of a tile lie inside the input."""
    positions = (at[1] < sizes[1]) & (at[4] < sizes[4])
    return (at[0] < sizes[0]) & positions & (at[2] < sizes[2]) & (at[3] < sizes[3])


@triton.jit
def is_set(at, sizes):
    """Returns which samples and groups of a tile lie inside the input."""
    return (at[0] < sizes[0]) & (at[2] < sizes[2])


@triton.jit
def is_channel(at, sizes):
    """Returns which channels of a tile lie inside the input."""
    return (at[2] < sizes[2]) & (at[3] < sizes[3])


@triton.jit
def sum_of_sets(v):
    """Sums over positions and members: one number by sample and group."""
    v = tl.sum(v, axis=4, keep_dims=True)
    v = tl.sum(v, axis=3, keep_dims=True)
    return tl.sum(v, axis=1, keep_dims=True)


@triton.jit
def sum_of_channels(v):
    """Sums over samples and positions: one number by channel."""
    v = tl.sum(v, axis=4, keep_dims=True)
    v = tl.sum(v, axis=1, keep_dims=True)
    return tl.sum(v, axis=0, keep_dims=True)


@triton.jit
def load_input(x, x_strides, weights, weight_strides, at, sizes, WIDE: tl.constexpr):
    """Returns a tile of the input, 1 for valid elements, else 0, and whether elements are kept.

    NaN and infinity in padding are not kept: they count as 0.
    """
    inside = is_inside(at, sizes)
    v = tl.load(x + offsets(at, x_strides), mask=inside, other=0).to(WIDE)
    valid = inside
    is_kept = inside
    if weights is not None:
        # All channels of a position have the same mask value, which is loaded once.
        here = (at[0] < sizes[0]) & (at[1] < sizes[1]) & (at[4] < sizes[4])
        at_weights = at[0] * weight_strides[0] + at[1] * weight_strides[1]
        at_weights = at_weights + at[4] * weight_strides[4]
        is_valid = tl.load(weights + at_weights, mask=here, other=0) > 0
        valid = inside & is_valid
        is_kept = is_valid | (tl.abs(v) < float("inf"))
        v = tl.where(is_kept, v, 0)
    return v, valid.to(WIDE), is_kept


@triton.jit
def load_moments(count, shift, residual, variance, at, sizes, EPSILON: tl.constexpr):
    """Returns shift, residual, 1 / sqrt(variance + epsilon) (0 for an empty set), and the count.

    The count is at least 1, as it is a divisor.
    """
    in_bounds = is_set(at, sizes)
    place, _ = set_places(at, sizes)
    s = tl.load(shift + place, mask=in_bounds, other=0)
    inverse = 1 / tl.sqrt(tl.load(variance + place, mask=in_bounds, other=1) + EPSILON)
    r = tl.zeros_like(s)
    if residual is not None:
        r = tl.load(residual + place, mask=in_bounds, other=0)
    n = r + 1
    if count is not None:
        n = tl.load(count + place, mask=in_bounds, other=1)
        inverse = tl.where(n > 0, inverse, 0)
        n = tl.where(n > 0, n, 1)
    return s, r, inverse, n


@triton.jit
def store_moments(moments, number, place, in_bounds, n, shift, residual, variance):
    """Stores moments in a buffer of four consecutive fields."""
    tl.store(moments + place, n, mask=in_bounds)
    tl.store(moments + number + place, shift, mask=in_bounds)
    tl.store(moments + 2 * number + place, residual, mask=in_bounds)
    tl.store(moments + 3 * number + place, variance, mask=in_bounds)


@triton.jit
def moments_of_tile(v, valid, CENTERED: tl.constexpr):
    """Returns count, shift, residual and variance of the sets in a tile.

    The shift is the rounded mean, and the residual the mean of the differences from it. Elements
    are near their shift, so that the subtraction is exact.
    """
    n = sum_of_sets(valid)
    least = tl.where(n > 0, n, 1)
    v = tl.where(valid > 0, v, 0)
    if CENTERED:
        shift = sum_of_sets(v) / least
        shift = tl.where(tl.abs(shift) < float("inf"), shift, 0)
        distance = tl.where(valid > 0, v - shift, 0)
        residual = sum_of_sets(distance) / least
        variance = sum_of_sets(distance * distance) / least - residual * residual
        variance = tl.where(variance < 0, 0, variance)
    else:
        shift = tl.zeros_like(n)
        residual = tl.zeros_like(n)
        variance = sum_of_sets(v * v) / least
    return n, shift, residual, variance


@triton.jit
def union(n, shift, residual, variance, n1, shift1, residual1, variance1):
    """Returns the moments of the union of two parts (Chan, Golub and LeVeque)."""
    total = n + n1
    share = n1 / tl.where(total > 0, total, 1)
    # An empty part has no mean: the union's shift is that of the first part that is not empty.
    distance = tl.where(n > 0, (shift1 - shift) + (residual1 - residual), 0)
    distance = tl.where(n1 > 0, distance, 0)
    shift, residual = tl.where(n > 0, shift, shift1), tl.where(n > 0, residual, residual1)
    residual = residual + distance * share
    variance = variance + (variance1 - variance) * share
    # The distance is multiplied twice: its square may overflow where this product does not.
    variance = variance + distance * share * (distance * (1 - share))
    return total, shift, residual, variance


@triton.jit
def load_channels(parameter, at, sizes, DEFAULT: tl.constexpr, WIDE: tl.constexpr):
    """Returns gamma or beta for the channels of a tile."""
    if parameter is None:
        return (at[2] * 0 + at[3] * 0 + DEFAULT).to(WIDE)
    place = at[2] * sizes[3] + at[3]
    return tl.load(parameter + place, mask=is_channel(at, sizes), other=0).to(WIDE)


@triton.jit
def scaled(v, shift, residual, inverse, gamma, beta, at, sizes, WIDE: tl.constexpr):
    """Returns the output for a tile of the input."""
    y = (v - shift) * inverse - residual * inverse
    y = y * load_channels(gamma, at, sizes, 1, WIDE)
    return y + load_channels(beta, at, sizes, 0, WIDE)


@triton.jit
def normalize_sets(
    x,
    x_strides,
    weights,
    weight_strides,
    gamma,
    beta,
    y,
    y_strides,
    moments,
    sizes,
    EPSILON: tl.constexpr,
    CENTERED: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Normalizes sets that fit into a tile as a whole: the input is read once."""
    group_blocks = tl.cdiv(sizes[2], TILE[2])
    program = tl.program_id(0)
    zero = program * 0
    at = tile_indices(program // group_blocks, zero, program % group_blocks, zero, zero, TILE)
    v, valid, _ = load_input(x, x_strides, weights, weight_strides, at, sizes, WIDE)
    n, shift, residual, variance = moments_of_tile(v, valid, CENTERED)
    inverse = tl.where(n > 0, 1 / tl.sqrt(variance + EPSILON), 0)
    out = scaled(v, shift, residual, inverse, gamma, beta, at, sizes, WIDE)
    out = out.to(y.dtype.element_ty)
    tl.store(y + offsets(at, y_strides), out, mask=is_inside(at, sizes))
    place, number = set_places(at, sizes)
    store_moments(moments, number, place, is_set(at, sizes), n, shift, residual, variance)


@triton.jit
def moments_of_parts(
    x,
    x_strides,
    weights,
    weight_strides,
    moments,
    sizes,
    parts,
    steps,
    CENTERED: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Computes the moments of parts of sets, by sample, part and group.

    A part consists of `steps` tiles, which are merged sequentially.
    """
    group_blocks = tl.cdiv(sizes[2], TILE[2])
    member_blocks, after_blocks = tl.cdiv(sizes[3], TILE[3]), tl.cdiv(sizes[4], TILE[4])
    program = tl.program_id(0)
    part, sets = program % parts, program // parts
    zero = program * 0
    at = tile_indices(sets // group_blocks, zero, sets % group_blocks, zero, zero, TILE)
    n = (at[0] * 0 + at[2] * 0).to(WIDE)
    shift, residual, variance = n, n, n
    for each in range(steps):
        # Past the last tile, no element is inside: such tiles are empty.
        step = part * steps + each
        rest = step // after_blocks
        at = tile_indices(
            sets // group_blocks,
            rest // member_blocks,
            sets % group_blocks,
            rest % member_blocks,
            step % after_blocks,
            TILE,
        )
        v, valid, _ = load_input(x, x_strides, weights, weight_strides, at, sizes, WIDE)
        n1, shift1, residual1, variance1 = moments_of_tile(v, valid, CENTERED)
        n, shift, residual, variance = union(
            n, shift, residual, variance, n1, shift1, residual1, variance1
        )
    place = (at[0] * parts + part) * sizes[2] + at[2]
    _, number = set_places(at, sizes)
    number *= parts
    store_moments(moments, number, place, is_set(at, sizes), n, shift, residual, variance)


@triton.jit
def merge_parts(
    partial,
    moments,
    samples,
    groups,
    parts,
    CENTERED: tl.constexpr,
    SETS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Merges the moments of parts, (samples, parts, groups), into moments of sets: `ops.merge`."""
    sets = block(tl.program_id(0), SETS)[:, None]
    each = block(tl.program_id(0) * 0, PARTS)[None, :]
    sample, group = sets // groups, sets % groups
    in_bounds = sample < samples
    place = (sample * parts + each) * groups + group
    number = (sets * 0 + samples) * groups * parts
    inside = in_bounds & (each < parts)
    n = tl.load(partial + place, mask=inside, other=0)
    shift1 = tl.load(partial + number + place, mask=inside, other=0)
    residual1 = tl.load(partial + 2 * number + place, mask=inside, other=0)
    variance1 = tl.load(partial + 3 * number + place, mask=inside, other=0)
    count = tl.sum(n, axis=1, keep_dims=True)
    share = n / tl.where(count > 0, count, 1)
    if CENTERED:
        shift = tl.sum(share * (shift1 + residual1), axis=1, keep_dims=True)
        shift = tl.where(tl.abs(shift) < float("inf"), shift, 0)
        distance = tl.where(n > 0, (shift1 - shift) + residual1, 0)
        residual = tl.sum(share * distance, axis=1, keep_dims=True)
        variance1 = variance1 + distance * distance
        variance = tl.sum(share * variance1, axis=1, keep_dims=True) - residual * residual
        variance = tl.where(variance < 0, 0, variance)
    else:
        shift = tl.zeros_like(count)
        residual = tl.zeros_like(count)
        variance = tl.sum(share * variance1, axis=1, keep_dims=True)
    number = (sets * 0 + samples) * groups
    store_moments(moments, number, sets, in_bounds, count, shift, residual, variance)


@triton.jit
def standardize(
    x,
    x_strides,
    weights,
    weight_strides,
    count,
    shift,
    residual,
    variance,
    gamma,
    beta,
    y,
    y_strides,
    sizes,
    EPSILON: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Standardizes a tile with given moments, then scales and shifts it."""
    at = tile_of_program(sizes, TILE)
    v, _, _ = load_input(x, x_strides, weights, weight_strides, at, sizes, WIDE)
    shift, residual, inverse, _ = load_moments(count, shift, residual, variance, at, sizes, EPSILON)
    out = scaled(v, shift, residual, inverse, gamma, beta, at, sizes, WIDE)
    out = out.to(y.dtype.element_ty)
    tl.store(y + offsets(at, y_strides), out, mask=is_inside(at, sizes))


@triton.jit
def tile_of_program(sizes, TILE: tl.constexpr):
    """Returns the indices of a program's tile, where each program has one tile."""
    rest = tl.program_id(0)
    a, rest = rest % tl.cdiv(sizes[4], TILE[4]), rest // tl.cdiv(sizes[4], TILE[4])
    m, rest = rest % tl.cdiv(sizes[3], TILE[3]), rest // tl.cdiv(sizes[3], TILE[3])
    k, rest = rest % tl.cdiv(sizes[2], TILE[2]), rest // tl.cdiv(sizes[2], TILE[2])
    j, i = rest % tl.cdiv(sizes[1], TILE[1]), rest // tl.cdiv(sizes[1], TILE[1])
    return tile_indices(i, j, k, m, a, TILE)


@triton.jit
def load_gradient(g, g_strides, at, sizes, WIDE: tl.constexpr):
    """Returns a tile of the output's gradient."""
    return tl.load(g + offsets(at, g_strides), mask=is_inside(at, sizes), other=0).to(WIDE)


# The derivatives. With r = 1 / sqrt(variance + epsilon), h = r (x - mean), y = gamma h + beta and
# u = gamma g for an output's gradient g:
#
#     gamma: sum of g h over samples and positions      beta: sum of g
#
# The mean and the variance depend on x. For each element of a set, with weight w (1, or 0 for
# padding) and n = sum of w:
#
#     d mean / dx = w / n         d variance / dx = 2 w (x - mean) / n
#     dy / d mean = -gamma r      dy / d variance = -gamma r^2 h / 2
#
# so that with sums over all of a set
#
#     dx = r u - (w / n) r sum(u) - (w / n) r h sum(u h)
#        = r (u - w (sum(u) + h sum(u h)) / n)
#
# Without centring (root mean square), sum(u) is left out: the variance is the mean square,
# d variance / dx = 2 w x / n, and h = r x. If the moments are constants, dx = r u.


@triton.jit
def sum_gradients(
    x,
    x_strides,
    g,
    g_strides,
    weights,
    weight_strides,
    count,
    shift,
    residual,
    variance,
    gamma,
    dx,
    dx_strides,
    set_sums,
    channel_sums,
    sizes,
    parts,
    steps,
    sample_blocks,
    EPSILON: tl.constexpr,
    CENTERED: tl.constexpr,
    CONSTANT: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Sums gradients, and computes those of the input where a tile suffices for them.

    A program processes `sample_blocks` blocks of samples, and `steps` tiles of positions in each,
    always for the same channels. It adds up g and g h of its channels in `channel_sums`,
    (2, samples and parts, channels), and u and u h of its sets in `set_sums`,
    (2, samples, parts and member blocks, groups), where these are given.

    With `dx`, a tile contains whole sets, or (`CONSTANT`) the moments do not depend on the input.
    """
    group_blocks, member_blocks = tl.cdiv(sizes[2], TILE[2]), tl.cdiv(sizes[3], TILE[3])
    after_blocks = tl.cdiv(sizes[4], TILE[4])
    program = tl.program_id(0)
    k, rest = program % group_blocks, program // group_blocks
    m, rest = rest % member_blocks, rest // member_blocks
    part, slice_ = rest % parts, rest // parts
    zero = program * 0
    at = tile_indices(zero, zero, k, m, zero, TILE)
    scale = load_channels(gamma, at, sizes, 1, WIDE)
    dgamma = (at[2] * 0 + at[3] * 0).to(WIDE)
    dbeta = dgamma
    for each_block in range(sample_blocks):
        i = slice_ * sample_blocks + each_block
        at = tile_indices(i, zero, k, m, zero, TILE)
        s, r, inverse, n = load_moments(count, shift, residual, variance, at, sizes, EPSILON)
        sum_u = (at[0] * 0 + at[2] * 0).to(WIDE)
        sum_uh = sum_u
        for each in range(steps):
            step = part * steps + each
            at = tile_indices(i, step // after_blocks, k, m, step % after_blocks, TILE)
            v, valid, is_kept = load_input(x, x_strides, weights, weight_strides, at, sizes, WIDE)
            upstream = load_gradient(g, g_strides, at, sizes, WIDE)
            u = upstream * scale
            h = (v - s) * inverse - r * inverse
            # Outside the input, h is not 0 by itself.
            h = tl.where(is_inside(at, sizes), h, 0)
            if channel_sums is not None:
                dgamma += sum_of_channels(upstream * h)
                dbeta += sum_of_channels(upstream)
            if not CONSTANT:
                sum_u += sum_of_sets(u)
                sum_uh += sum_of_sets(u * h)
            if dx is not None:
                if CONSTANT:
                    out = u * inverse
                elif CENTERED:
                    out = inverse * (u - valid * (sum_u + h * sum_uh) / n)
                else:
                    out = inverse * (u - valid * h * sum_uh / n)
                out = tl.where(is_kept, out, 0)
                place = dx + offsets(at, dx_strides)
                tl.store(place, out.to(dx.dtype.element_ty), mask=is_inside(at, sizes))
        if set_sums is not None:
            all_parts = parts * member_blocks
            place = (at[0] * all_parts + part * member_blocks + m) * sizes[2] + at[2]
            _, number = set_places(at, sizes)
            number *= all_parts
            tl.store(set_sums + place, sum_u, mask=is_set(at, sizes))
            tl.store(set_sums + number + place, sum_uh, mask=is_set(at, sizes))
    if channel_sums is not None:
        at = tile_indices(zero, zero, k, m, zero, TILE)
        channels = (at[2] * 0 + sizes[2]) * sizes[3]
        place = rest * channels + at[2] * sizes[3] + at[3]
        number = channels * (tl.num_programs(0) // (group_blocks * member_blocks))
        tl.store(channel_sums + place, dgamma, mask=is_channel(at, sizes))
        tl.store(channel_sums + number + place, dbeta, mask=is_channel(at, sizes))


@triton.jit
def gradients(
    x,
    x_strides,
    g,
    g_strides,
    weights,
    weight_strides,
    count,
    shift,
    residual,
    variance,
    gamma,
    dx,
    dx_strides,
    set_sums,
    sizes,
    EPSILON: tl.constexpr,
    CENTERED: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Computes the input's gradient in a tile from the sums of its sets, (2, samples, groups)."""
    at = tile_of_program(sizes, TILE)
    v, valid, is_kept = load_input(x, x_strides, weights, weight_strides, at, sizes, WIDE)
    u = load_gradient(g, g_strides, at, sizes, WIDE)
    u = u * load_channels(gamma, at, sizes, 1, WIDE)
    s, r, inverse, n = load_moments(count, shift, residual, variance, at, sizes, EPSILON)
    h = (v - s) * inverse - r * inverse
    in_bounds = is_set(at, sizes)
    place, number = set_places(at, sizes)
    total = h * (tl.load(set_sums + number + place, mask=in_bounds, other=0) / n)
    if CENTERED:
        total += tl.load(set_sums + place, mask=in_bounds, other=0) / n
    out = tl.where(is_kept, inverse * (u - valid * total), 0).to(dx.dtype.element_ty)
    tl.store(dx + offsets(at, dx_strides), out, mask=is_inside(at, sizes))
