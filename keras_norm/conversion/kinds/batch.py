"""Batch normalization in Keras, PyTorch, Flax and MATLAB."""

import inspect

import keras

from keras_norm import layers
from keras_norm.conversion import flax_modules, keras_layers, torch_modules
from keras_norm.conversion.affine import of_statistics
from keras_norm.conversion.arguments import common_arguments, require
from keras_norm.conversion.kinds.kind import Kind

_OWN = ("momentum", "synchronized", "moving_mean_initializer", "moving_variance_initializer")
_OF_RENORM = ("renorm", "renorm_clipping", "renorm_momentum")


def from_keras(layer, makes_masks):
    """Returns our layer for Keras's BatchNormalization."""
    names = (*_OWN, *(_OF_RENORM if getattr(layer, "renorm", False) else ()))
    return layers.BatchNormalization(
        **common_arguments(layer), **{name: getattr(layer, name) for name in names}
    )


def to_keras(layer, makes_masks):
    """Returns Keras's layer for our BatchNormalization."""
    require("variance_momentum", layer.variance_momentum, None, layer.momentum)
    arguments = keras_layers.arguments(layer, _OWN)
    if layer.renorm:
        if "renorm" not in inspect.signature(keras.layers.BatchNormalization).parameters:
            raise ValueError(
                "Argument `renorm` requires Keras 3.14 or later. "
                f"Received: renorm=True, with Keras {keras.__version__}"
            )
        arguments |= {name: getattr(layer, name) for name in _OF_RENORM}
    return keras.layers.BatchNormalization(**arguments)


def from_batch_norm(module, synchronized=False):
    """Returns our layer for a BatchNorm1d, 2d or 3d of PyTorch."""
    require("track_running_stats", module.track_running_stats, True)
    if module.momentum is None:
        raise ValueError(
            "Argument `momentum` must be a number: BatchNormalization cannot average over all "
            "batches. Received: momentum=None"
        )
    return layers.BatchNormalization(
        axis=1,
        momentum=1 - module.momentum,
        moving_mean_initializer=torch_modules.array(module.running_mean),
        moving_variance_initializer=torch_modules.array(module.running_var),
        synchronized=synchronized,
        num_channels=module.num_features,
        **torch_modules.arguments(module, module.running_mean),
    )


def from_sync_batch_norm(module):
    """Returns our layer for a SyncBatchNorm of PyTorch."""
    return from_batch_norm(module, synchronized=True)


def to_torch(layer):
    """Returns a BatchNorm1d, 2d or 3d, or a SyncBatchNorm, for our BatchNormalization."""
    from torch import nn

    rank = torch_modules.rank_with_channels_on_axis_1(layer)
    require("renorm", layer.renorm, False)
    require("variance_momentum", layer.variance_momentum, None, layer.momentum)
    if layer.synchronized:
        batch_norm = nn.SyncBatchNorm
    else:
        if rank > 5:
            raise ValueError(
                "PyTorch's batch normalization takes inputs of rank 2 to 5. "
                f"Received: an input of rank {rank}"
            )
        batch_norm = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(rank, nn.BatchNorm1d)
    module = batch_norm(layer.num_channels, layer.epsilon, 1 - layer.momentum)
    torch_modules.copy_values(module.running_mean, layer.moving_mean)
    torch_modules.copy_values(module.running_var, layer.moving_variance)
    return module


def from_flax(module):
    """Returns our layer for an nnx.BatchNorm."""
    return layers.BatchNormalization(
        axis=module.axis,
        momentum=module.momentum,
        moving_mean_initializer=flax_modules.array(module.mean),
        moving_variance_initializer=flax_modules.array(module.var),
        num_channels=module.num_features,
        **flax_modules.arguments(module),
    )


KIND = Kind(
    layer=layers.BatchNormalization,
    keras=keras.layers.BatchNormalization,
    from_keras=from_keras,
    to_keras=to_keras,
    torch={
        "BatchNorm1d": from_batch_norm,
        "BatchNorm2d": from_batch_norm,
        "BatchNorm3d": from_batch_norm,
        "SyncBatchNorm": from_sync_batch_norm,
    },
    to_torch=to_torch,
    flax={"BatchNorm": from_flax},
    folding=of_statistics,
    variants=("keras_norm.wolfram.AppliedBatchNormalization",),
    matlab="keras_norm.matlab.batch_normalization.BatchNormalizationLayer",
)
