"""How a form is divided into tiles, and these among programs.

No card was at hand: the constants bound what a program holds and what is moved besides the input,
and are to be tuned where `nox -s gpu` can time them. `benchmarks/accelerator.py` counts what they
cost.
"""

import math
from typing import NamedTuple

# Elements of a tile that fill the registers of a few warps: a program loads as many at a time.
TILE_ELEMENTS = 4096
# The most elements of a set that a program holds whole, for one read of the input: with a gradient
# of the same size, 64 registers a thread with 512 threads. The ahead-of-time compilation in
# `benchmarks/accelerator.py` shows what spills.
LARGEST_SET = 16384
# Bytes that a card moves at once: tiles have runs of neighbours at least this long.
SECTOR_BYTES = 32
# Neighbouring channels in a tile of a set that is divided, where channels are the fastest axis.
CHANNELS_IN_TILE = 64
# Programs that keep all multiprocessors of a large card busy.
PROGRAMS = 1024
# Positions for each row of partial sums of gamma's and beta's gradients: what these add to the
# memory moved is at most 4 numbers (two written, two read) for as many elements.
POSITIONS_OF_PARTIAL_SUM = 32
# Elements for each warp of 32 threads.
WARP_ELEMENTS, MOST_WARPS = 512, 16


class Parts(NamedTuple):
    """How tiles are divided among programs.

    Attributes:
        parts: Into how many parts the tiles of a set are divided.
        steps: How many tiles a part has.
        sample_blocks: How many blocks of samples a program goes over.
        slices: How many programs share the samples.
        blocks: How many blocks the channels make.
    """

    parts: int
    steps: int
    sample_blocks: int
    slices: int
    blocks: int

    @property
    def programs(self):
        """How many programs there are."""
        return self.parts * self.slices * self.blocks


def warps(tile):
    """Returns the number of warps for a tile."""
    return min(MOST_WARPS, max(1, math.prod(tile) // WARP_ELEMENTS))


def tile_of_sets(form, itemsize):
    """Returns a tile that holds whole sets; None if it would be too large."""
    samples, before, groups, group_size, after = form
    size = math.prod(map(power_of_2, (before, group_size, after)))
    several = power_of_2(groups, max(1, TILE_ELEMENTS // size))
    if after == 1:
        shortest = power_of_2(-(-SECTOR_BYTES // (group_size * itemsize)))
        several = max(several, min(power_of_2(groups), shortest))
    if size * several > LARGEST_SET:
        return None
    each = power_of_2(samples, max(1, TILE_ELEMENTS // (size * several)))
    return each, power_of_2(before), several, power_of_2(group_size), power_of_2(after)


def tile_of_parts(form):
    """Returns a tile that holds parts of sets."""
    _, before, groups, group_size, after = form
    if after == 1:
        fast = TILE_ELEMENTS if before == 1 else CHANNELS_IN_TILE
        members = power_of_2(group_size, fast)
        several = power_of_2(groups, max(1, CHANNELS_IN_TILE // members))
        run = 1
    else:
        run = power_of_2(after, TILE_ELEMENTS)
        members = power_of_2(group_size, TILE_ELEMENTS // run)
        several = power_of_2(groups, max(1, TILE_ELEMENTS // (run * members * before)))
    positions = power_of_2(before, max(1, TILE_ELEMENTS // (run * members * several)))
    return 1, positions, several, members, run


def parts_of_moments(form, tile):
    """Returns how the tiles of each set are divided, for their moments."""
    samples, before, groups, group_size, after = _blocks(form, tile)
    tiles = before * group_size * after
    parts = min(tiles, -(-PROGRAMS // (samples * groups)))
    steps = -(-tiles // parts)
    return Parts(-(-tiles // steps), steps, 1, samples, groups)


def parts_of_gradients(form, tile):
    """Returns how positions and samples are divided, for sums of gradients."""
    samples, before, groups, group_size, after = _blocks(form, tile)
    blocks, tiles = groups * group_size, before * after
    rows = max(1, form.samples * form.before * form.after // POSITIONS_OF_PARTIAL_SUM)
    most = max(1, min(rows, -(-PROGRAMS // blocks)))
    slices = min(samples, most)
    sample_blocks = -(-samples // slices)
    slices = -(-samples // sample_blocks)
    steps = -(-tiles // min(tiles, max(1, most // slices)))
    return Parts(-(-tiles // steps), steps, sample_blocks, slices, blocks)


def programs(form, tile):
    """Returns how many tiles a form has."""
    return math.prod(_blocks(form, tile))


def power_of_2(number, most=None):
    """Returns the least power of 2 that is not below a number, or, if less, not above `most`."""
    found = 1 << (number - 1).bit_length()
    return found if most is None else min(found, 1 << (most.bit_length() - 1))


def _blocks(form, tile):
    return [-(-size // block) for size, block in zip(form, tile, strict=True)]
