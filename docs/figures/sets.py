"""Draws which elements share moments, for each layer and kind of input.

    KERAS_BACKEND=jax python docs/figures/sets.py

What shares moments is found by trying: an input element is moved, and the outputs that change are
its set. Writes `docs/images/sets-batch.png` and so on, a picture for each layer.
"""

from pathlib import Path

import keras
import matplotlib
import numpy as np

import keras_norm

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

SAMPLES, CHANNELS = 2, 4
# Positions of each kind of input; its time steps, and the grid of positions in each.
KINDS = {
    "feature vectors\n(batch, channels)\n": ((), 1, (1, 1)),
    "sequences\n(batch, time,\nchannels)": ((3,), 3, (1, 1)),
    "images\n(batch, height,\nwidth, channels)": ((3, 3), 1, (3, 3)),
    "sequences of images\n(batch, time, height,\nwidth, channels)": (
        (3, 2, 2),
        3,
        (2, 2),
    ),
}
PICTURES = {
    "batch": {"BatchNormalization()": keras_norm.BatchNormalization},
    "layer": {
        "LayerNormalization()": keras_norm.LayerNormalization,
        "LayerNormalization(reduction_axes=-1)": lambda: keras_norm.LayerNormalization(
            reduction_axes=-1
        ),
    },
    "group": {
        "GroupNormalization(groups=2)": lambda: keras_norm.GroupNormalization(groups=2),
        'GroupNormalization(groups="all-channels")': lambda: keras_norm.GroupNormalization(
            groups="all-channels"
        ),
        'GroupNormalization(groups="channel-wise")': lambda: keras_norm.GroupNormalization(
            groups="channel-wise"
        ),
    },
    "instance": {"InstanceNormalization()": keras_norm.InstanceNormalization},
    "rms": {"RMSNormalization()": keras_norm.RMSNormalization},
}
FIRST = "#1f5fa8"
# No colour comes twice: images have up to 24 sets.
OTHERS = [
    *("#f6c28b", "#a8d5a2", "#d9b8e8", "#f2a6a6", "#c9c9a0", "#9fd8d8", "#e8d48a", "#b0b0b0"),
    *("#e07b39", "#5fa85b", "#9a6fb8", "#cf4f4f", "#8a8a4f", "#3fa3a3", "#c9a227", "#6e6e6e"),
    *("#ffe1bd", "#d6f0cf", "#f3e3fa", "#fbd5d5", "#8c5a2b", "#2f6b3a", "#e377c2"),
]


def sets(layer, shape):
    """Returns the number of each element's set, found by moving elements one at a time.

    A set of a single element always gives beta where means are subtracted, so that nothing changes
    when it is moved.
    """
    arguments = {"training": True} if isinstance(layer, keras_norm.BatchNormalization) else {}
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    before = keras.ops.convert_to_numpy(layer(x, **arguments))
    numbers = np.full(shape, -1)
    for index in np.ndindex(shape):
        if numbers[index] < 0:
            moved = x.copy()
            moved[index] += 1
            changed = keras.ops.convert_to_numpy(layer(moved, **arguments)) != before
            changed[index] = True
            numbers[changed] = numbers.max() + 1
    return numbers


def draw(axes, numbers, blocks, grid):
    """Draws a tile for each sample (row) and channel (column), and in it the positions.

    Time runs down a tile, in so many blocks; in a block is a grid of rows and columns.
    """
    rows, columns = grid
    tiles = numbers.reshape(SAMPLES, blocks * rows, columns, CHANNELS)
    between_blocks = 0.35 if rows > 1 else 0
    gap = 0.25 * columns
    width = columns + gap
    tall = blocks * rows + (blocks - 1) * between_blocks
    height = tall + max(gap, 0.8)
    for sample, row, column, channel in np.ndindex(tiles.shape):
        number = tiles[sample, row, column, channel]
        corner = (
            channel * width + column,
            sample * height + row + row // rows * between_blocks,
        )
        color = FIRST if number == 0 else OTHERS[number - 1]
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white"))
    axes.set_xlim(0, CHANNELS * width - gap)
    axes.set_ylim(SAMPLES * height - height + tall, 0)
    axes.set_aspect("equal", anchor="N")
    axes.set_xticks([c * width + columns / 2 for c in range(CHANNELS)], range(1, CHANNELS + 1))
    axes.set_yticks([s * height + tall / 2 for s in range(SAMPLES)], range(1, SAMPLES + 1))
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlabel("channel")
    axes.set_ylabel("sample")


def main():
    """Draws the pictures."""
    for name, variants in PICTURES.items():
        figure = plt.figure(figsize=(8.4, 3.1 * len(variants)), layout="constrained")
        parts = figure.subfigures(len(variants), 1, squeeze=False)[:, 0]
        for part, (title, make) in zip(parts, variants.items(), strict=True):
            part.suptitle(title, family="monospace", fontsize=12, fontweight="bold")
            panels = part.subplots(1, len(KINDS), width_ratios=[1, 0.85, 1, 1])
            for axes, (kind, (positions, *tiles)) in zip(panels, KINDS.items(), strict=True):
                numbers = sets(make(), (SAMPLES, *positions, CHANNELS))
                draw(axes, numbers, *tiles)
                axes.set_title(kind, fontsize=9)
        figure.savefig(Path(__file__).parent.parent / "images" / f"sets-{name}.png", dpi=140)
        plt.close(figure)


if __name__ == "__main__":
    main()
