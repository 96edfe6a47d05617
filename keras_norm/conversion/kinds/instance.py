"""Instance normalization in Keras, PyTorch, Flax and MATLAB."""

from keras_norm import layers
from keras_norm.conversion import flax_modules, torch_modules
from keras_norm.conversion.affine import of_parameters
from keras_norm.conversion.arguments import require
from keras_norm.conversion.kinds import group
from keras_norm.conversion.kinds.kind import Kind


def from_torch(module):
    """Returns our layer for an InstanceNorm1d, 2d or 3d of PyTorch."""
    require("track_running_stats", module.track_running_stats, False)
    return layers.InstanceNormalization(
        axis=1,
        num_channels=module.num_features,
        **torch_modules.arguments(module, module.weight),
    )


def from_flax(module):
    """Returns our layer for an nnx.InstanceNorm."""
    return layers.InstanceNormalization(
        axis=module.feature_axes,
        num_channels=module.num_features,
        **flax_modules.arguments(module),
    )


KIND = Kind(
    layer=layers.InstanceNormalization,
    keras=None,
    from_keras=None,
    to_keras=group.to_keras,
    torch={
        "InstanceNorm1d": from_torch,
        "InstanceNorm2d": from_torch,
        "InstanceNorm3d": from_torch,
    },
    to_torch=group.to_torch,
    flax={"InstanceNorm": from_flax},
    folding=of_parameters,
    matlab="keras_norm.matlab.instance_normalization.InstanceNormalizationLayer",
)
