"""Group normalization in Keras, PyTorch, Flax and MATLAB."""

import keras

from keras_norm import layers
from keras_norm.conversion import flax_modules, keras_layers, torch_modules
from keras_norm.conversion.affine import of_parameters
from keras_norm.conversion.arguments import common_arguments, require
from keras_norm.conversion.kinds.kind import Kind
from keras_norm.conversion.unmasked import Unmasked


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedGroupNormalization(Unmasked, layers.GroupNormalization):  # type: ignore[misc]
    """`GroupNormalization` that passes a mask on without using it."""


def from_keras(layer, makes_masks):
    """Returns our layer for Keras's GroupNormalization."""
    cls = UnmaskedGroupNormalization if makes_masks else layers.GroupNormalization
    return cls(groups=layer.groups, **common_arguments(layer))


def to_keras(layer, makes_masks):
    """Returns Keras's layer for our GroupNormalization and InstanceNormalization."""
    keras_layers.refuse_masks(layer, makes_masks)
    groups = {"all-channels": 1, "channel-wise": -1}.get(layer.groups, layer.groups)
    return keras.layers.GroupNormalization(groups=groups, **keras_layers.arguments(layer))


def from_torch(module):
    """Returns our layer for a GroupNorm of PyTorch."""
    return layers.GroupNormalization(
        groups=module.num_groups,
        axis=1,
        num_channels=module.num_channels,
        **torch_modules.arguments(module, module.weight),
    )


def to_torch(layer):
    """Returns a GroupNorm for our GroupNormalization and InstanceNormalization."""
    from torch import nn

    torch_modules.rank_with_channels_on_axis_1(layer)
    groups = {"all-channels": 1, "channel-wise": layer.num_channels, -1: layer.num_channels}
    groups = groups.get(layer.groups, layer.groups)
    return nn.GroupNorm(groups, layer.num_channels, layer.epsilon)


def from_flax(module):
    """Returns our layer for an nnx.GroupNorm."""
    require("reduction_axes", module.reduction_axes, None)
    return layers.GroupNormalization(groups=module.num_groups, **flax_modules.arguments(module))


KIND = Kind(
    layer=layers.GroupNormalization,
    keras=keras.layers.GroupNormalization,
    from_keras=from_keras,
    to_keras=to_keras,
    torch={"GroupNorm": from_torch},
    to_torch=to_torch,
    flax={"GroupNorm": from_flax},
    folding=of_parameters,
    variants=(UnmaskedGroupNormalization,),
    matlab="keras_norm.matlab.group_normalization.GroupNormalizationLayer",
)
