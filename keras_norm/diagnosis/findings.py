"""A finding: one fault of one layer."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of one layer.

    Attributes:
        layer: The layer.
        name: The layer's name.
        kind: "statistics", "batch", "gamma", "constant", "mean", "mask", "time", "epsilon" or
            "float16".
        channels: Indices of the affected channels.
        num_channels: Number of channels of the layer.
        value: The worst channel's number, in the units that the remedy names.
        remedy: One sentence.
    """

    layer: Any
    name: str
    kind: str
    channels: list
    num_channels: int
    value: float
    remedy: str

    @property
    def key(self):
        """A key that findings of the same kind and layer share."""
        return id(self.layer), self.kind


def finding(layer, kind, where, badness, remedy):
    """Returns a list of at most one finding.

    Args:
        layer: The layer.
        kind: The kind.
        where: Booleans that select the affected channels.
        badness: Numbers for all channels, the largest for the worst channel; the finding's value is
            its absolute value.
        remedy: One sentence.
    """
    where = np.ravel(where)
    channels = np.flatnonzero(where)
    if not len(channels):
        return []
    worst = np.broadcast_to(badness, where.shape)[channels]
    value = float(np.abs(worst[np.argmax(worst)]))
    return [Finding(layer, layer.name, kind, channels.tolist(), len(where), value, remedy)]


def finding_of_all(layer, channels, kind, value, remedy):
    """Returns a list of one finding that affects all channels of a layer."""
    return finding(layer, kind, np.ones(channels, bool), value, remedy)
