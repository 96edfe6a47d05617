"""Divides a form into tiles, and the tiles among programs.

The constants bound the size of a program and the memory traffic besides the input. They were chosen
without a GPU; `nox -s gpu` can time them. `benchmarks/accelerator.py` counts their traffic.
"""

import math
from typing import NamedTuple

# Elements of a tile, which a program loads at a time: they fill the registers of a few warps.
TILE_ELEMENTS = 4096
# The largest set that a program loads as a whole, so that the input is read once: with a gradient
# of the same size, it takes 64 registers per thread with 512 threads. The ahead-of-time compilation
# in `benchmarks/accelerator.py` shows spilled registers.
LARGEST_SET = 16384
# Bytes that a GPU moves at once: tiles have contiguous runs at least this long.
SECTOR_BYTES = 32
# Neighbouring channels in a tile of a divided set, where channels are the fastest axis.
CHANNELS_IN_TILE = 64
# Programs that keep all multiprocessors of a large GPU busy.
PROGRAMS = 1024
# Positions for each row of partial sums of gamma's and beta's gradients. For each channel and this
# many positions, the partial sums add at most 4 numbers (two written, two read) to the traffic.
POSITIONS_OF_PARTIAL_SUM = 32
# Elements for each warp of 32 threads.
WARP_ELEMENTS, MOST_WARPS = 512, 16


class Parts(NamedTuple):
    """The division of tiles among programs.

    Attributes:
        parts: Number of parts that the tiles of a set are divided into.
        steps: Number of tiles in a part.
        sample_blocks: Number of blocks of samples that a program processes.
        slices: Number of programs that share the samples.
        blocks: Number of blocks of channels.
    """

    parts: int
    steps: int
    sample_blocks: int
    slices: int
    blocks: int

    @property
    def programs(self):
        """The number of programs."""
        return self.parts * self.slices * self.blocks


def warps(tile):
    """Returns the number of warps for a tile."""
    return min(MOST_WARPS, max(1, math.prod(tile) // WARP_ELEMENTS))


def tile_of_sets(form, itemsize):
    """Returns a tile that contains whole sets; None if it would be too large."""
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
    """Returns a tile that contains parts of sets."""
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
    """Returns the division of the tiles of each set, for moments."""
    samples, before, groups, group_size, after = _blocks(form, tile)
    tiles = before * group_size * after
    parts = min(tiles, -(-PROGRAMS // (samples * groups)))
    steps = -(-tiles // parts)
    return Parts(-(-tiles // steps), steps, 1, samples, groups)


def parts_of_gradients(form, tile):
    """Returns the division of positions and samples, for sums of gradients."""
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
    """Returns the number of tiles of a form."""
    return math.prod(_blocks(form, tile))


def power_of_2(number, most=None):
    """Returns the smallest power of 2 >= `number`, or the largest one <= `most` if that is less."""
    found = 1 << (number - 1).bit_length()
    return found if most is None else min(found, 1 << (most.bit_length() - 1))


def _blocks(form, tile):
    return [-(-size // block) for size, block in zip(form, tile, strict=True)]
