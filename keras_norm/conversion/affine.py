"""The affine map of channels in a normalization layer, and the layer without it."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_norm.conversion.placing import put_in_place


@dataclasses.dataclass(frozen=True)
class Folding:
    """A layer's map `factor * x + shift` of channels, or the reason why it cannot be folded.

    Attributes:
        layer: The layer.
        why_not: Why the map cannot be folded; None if it can.
        axis: The axis of the channels.
        factor: Array with one factor for each channel.
        shift: Array with one summand for each channel.
        disappears: Whether the layer consists only of the map.
    """

    layer: Any
    why_not: str | None = None
    axis: int = -1
    factor: Any = None
    shift: Any = None
    disappears: bool = False

    def rest(self):
        """Returns the layer without its map, and pairs of common variables: an empty list."""
        without: dict[str, Any] = {"center": False, "scale": False}
        if "gamma_offset" in (config := self.layer.get_config()):
            without["gamma_offset"] = 0.0
        new = type(self.layer).from_config(config | without)
        return new, put_in_place(new, self.layer)


def of_statistics(layer):
    """Returns the folding of batch normalization, which is only a map in inference."""
    if not layer.built:
        return Folding(layer, disappears=True)
    mean, variance, gamma, beta = map(
        _array, (layer.moving_mean, layer.moving_variance, layer.gamma, layer.beta)
    )
    factor = (1 if gamma is None else gamma) / np.sqrt(variance + layer.epsilon)
    shift = (0 if beta is None else beta) - mean * factor
    return Folding(layer, None, layer.axis, factor, shift, disappears=True)


def of_parameters(layer):
    """Returns the folding of gamma and beta in a layer that computes moments."""
    gamma, beta = _array(layer.gamma), _array(layer.beta)
    if gamma is None and beta is None:
        return Folding(layer) if layer.scale or layer.center else None
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    if len(axes) > 1:
        return Folding(layer, f"its parameters span several axes (axis={list(axes)})")
    size = (beta if gamma is None else gamma).size
    factor = np.ones(size) if gamma is None else gamma + getattr(layer, "gamma_offset", 0.0)
    shift = np.zeros(size) if beta is None else beta
    return Folding(layer, None, axes[0], factor, shift)


def _array(variable):
    if variable is None:
        return None
    return keras.ops.convert_to_numpy(variable).astype("float64")
