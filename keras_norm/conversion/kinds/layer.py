"""Layer normalization in Keras, PyTorch, Flax and MATLAB."""

import keras

from keras_norm import _keras, layers
from keras_norm.conversion import flax_modules, keras_layers, torch_modules
from keras_norm.conversion.affine import Folding, of_parameters
from keras_norm.conversion.arguments import (
    common_arguments,
    names_last_axes,
    require,
    sorted_axes,
)
from keras_norm.conversion.kinds.kind import Kind
from keras_norm.conversion.unmasked import Unmasked


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedLayerNormalization(Unmasked, layers.LayerNormalization):  # type: ignore[misc]
    """`LayerNormalization` that passes a mask on without using it."""


def from_keras(layer, makes_masks):
    """Returns our layer for Keras's LayerNormalization."""
    require("rms_scaling", getattr(layer, "rms_scaling", False), False)
    if _uses_last_axes(layer):
        keras_layers.refuse_axis(layer)
    axis = keras_layers.axis_of(layer)
    cls = UnmaskedLayerNormalization if makes_masks else layers.LayerNormalization
    return cls(**common_arguments(layer) | {"axis": axis, "reduction_axes": axis})


def to_keras(layer, makes_masks):
    """Returns Keras's layer for our LayerNormalization."""
    if _uses_last_axes(layer):
        keras_layers.refuse_axis(layer)
    axes = keras_layers.spanned_and_reduced(layer, makes_masks)
    return keras.layers.LayerNormalization(**keras_layers.arguments(layer) | {"axis": axes})


def _uses_last_axes(layer):
    """Returns whether Keras's layer mistakes other axes for the last ones.

    On PyTorch, before Keras 3.16, it passes the sizes of neighbouring axes to a function that
    normalizes the last axes.
    """
    if keras.backend.backend() != "torch" or _keras.VERSION >= (3, 16):
        return False
    axes = sorted_axes(layer, "axis")
    are_neighbours = axes == list(range(axes[0], axes[-1] + 1))
    return are_neighbours and not names_last_axes(layer)


def from_torch(module):
    """Returns our layer for a LayerNorm of PyTorch."""
    return torch_modules.from_last_axes(layers.LayerNormalization, module, module.eps)


def to_torch(layer):
    """Returns a LayerNorm for our LayerNormalization."""
    from torch import nn

    return nn.LayerNorm(torch_modules.last_sizes(layer), layer.epsilon)


def from_flax(module):
    """Returns our layer for an nnx.LayerNorm."""
    return flax_modules.from_axes(layers.LayerNormalization, module)


def folding(layer):
    """Returns the `Folding` of a layer, ours or Keras's."""
    if getattr(layer, "rms_scaling", False):
        return Folding(layer, "its argument rms_scaling=True needs gamma")
    if isinstance(layer, keras.layers.LayerNormalization) and _uses_last_axes(layer):
        return Folding(
            layer, f"Keras's layer mistakes its axes for the last ones (axis={layer.axis})"
        )
    return of_parameters(layer)


KIND = Kind(
    layer=layers.LayerNormalization,
    keras=keras.layers.LayerNormalization,
    from_keras=from_keras,
    to_keras=to_keras,
    torch={"LayerNorm": from_torch},
    to_torch=to_torch,
    flax={"LayerNorm": from_flax},
    folding=folding,
    variants=(UnmaskedLayerNormalization,),
    matlab="keras_norm.matlab.layer_normalization.LayerNormalizationLayer",
)
