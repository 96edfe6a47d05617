"""Conversion of single modules of PyTorch to our layers and back, a pair of functions per kind."""

import keras

from keras_norm import layers
from keras_norm.conversion.arguments import affine_arguments, require, sorted_axes


def from_batch_norm(module, synchronized=False):
    """Returns our layer for a BatchNorm1d, 2d or 3d."""
    require("track_running_stats", module.track_running_stats, True)
    if module.momentum is None:
        raise ValueError(
            "Argument `momentum` must be a number: BatchNormalization cannot average over all "
            "batches. Received: momentum=None"
        )
    return layers.BatchNormalization(
        axis=1,
        momentum=1 - module.momentum,
        moving_mean_initializer=_array(module.running_mean),
        moving_variance_initializer=_array(module.running_var),
        synchronized=synchronized,
        num_channels=module.num_features,
        **_arguments(module, module.running_mean),
    )


def from_sync_batch_norm(module):
    """Returns our layer for a SyncBatchNorm."""
    return from_batch_norm(module, synchronized=True)


def from_layer_norm(module):
    """Returns our layer for a LayerNorm."""
    return _from_last_axes(layers.LayerNormalization, module, module.eps)


def from_rms_norm(module):
    """Returns our layer for an RMSNorm."""
    import torch

    # PyTorch's epsilon for None depends on the dtype of the computation.
    is_double = module.weight is not None and module.weight.dtype == torch.float64
    computed_in = torch.float64 if is_double else torch.float32
    epsilon = torch.finfo(computed_in).eps if module.eps is None else module.eps
    return _from_last_axes(layers.RMSNormalization, module, epsilon)


def _from_last_axes(cls, module, epsilon):
    rank = len(module.normalized_shape)
    axis = -1 if rank == 1 else list(range(-rank, 0))
    arguments = _arguments(module, module.weight) | {"epsilon": epsilon}
    layer = cls(axis=axis, reduction_axes=axis, **arguments)
    layer.build((None, *module.normalized_shape))
    return layer


def from_group_norm(module):
    """Returns our layer for a GroupNorm."""
    return layers.GroupNormalization(
        groups=module.num_groups,
        axis=1,
        num_channels=module.num_channels,
        **_arguments(module, module.weight),
    )


def from_instance_norm(module):
    """Returns our layer for an InstanceNorm1d, 2d or 3d."""
    require("track_running_stats", module.track_running_stats, False)
    return layers.InstanceNormalization(
        axis=1, num_channels=module.num_features, **_arguments(module, module.weight)
    )


def _arguments(module, typical):
    """Returns the arguments that all modules have; the dtype is that of `typical`, unless None."""
    return {
        "epsilon": module.eps,
        "dtype": None if typical is None else str(typical.dtype).removeprefix("torch."),
        **affine_arguments(_array(module.weight), _array(getattr(module, "bias", None))),
    }


def to_layer_norm(layer):
    """Returns a LayerNorm for our LayerNormalization."""
    from torch import nn

    return nn.LayerNorm(_last_sizes(layer), layer.epsilon)


def to_rms_norm(layer):
    """Returns an RMSNorm for our RMSNormalization."""
    from torch import nn

    require("center", layer.center, False)
    return nn.RMSNorm(_last_sizes(layer), layer.epsilon)


def to_group_norm(layer):
    """Returns a GroupNorm for our GroupNormalization and InstanceNormalization."""
    from torch import nn

    _rank_with_channels_on_axis_1(layer)
    groups = {"all-channels": 1, "channel-wise": layer.num_channels, -1: layer.num_channels}
    groups = groups.get(layer.groups, layer.groups)
    return nn.GroupNorm(groups, layer.num_channels, layer.epsilon)


def to_batch_norm(layer):
    """Returns a BatchNorm1d, 2d or 3d, or a SyncBatchNorm, for our BatchNormalization."""
    from torch import nn

    rank = _rank_with_channels_on_axis_1(layer)
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
    copy_values(module.running_mean, layer.moving_mean)
    copy_values(module.running_var, layer.moving_variance)
    return module


def _array(tensor):
    return None if tensor is None else tensor.detach().cpu().double().numpy()


def copy_values(tensor, variable, added=0.0):
    """Copies the values and the dtype of a Keras variable to a tensor."""
    import torch

    values = torch.from_numpy(keras.ops.convert_to_numpy(variable).astype("float64") + added)
    tensor.data = values.to(getattr(torch, variable.dtype))


def _last_sizes(layer):
    """Returns the sizes of the last axes, after checking that the layer names only these."""
    shape = layer.get_build_config()["input_shape"]
    axes = sorted_axes(layer, "axis")
    last = list(range(len(shape) - len(axes), len(shape)))
    is_default = layer.reduction_axes is None and layer.reduces_axis
    reduced = axes if is_default else sorted_axes(layer, "reduction_axes")
    if not axes == reduced == last:
        raise ValueError(
            "Arguments `axis` and `reduction_axes` must both name the last axes. Received: "
            f"axis={layer.axis}, reduction_axes={layer.reduction_axes}, an input of rank "
            f"{len(shape)}"
        )
    return [shape[axis] for axis in axes]


def _rank_with_channels_on_axis_1(layer):
    rank = len(layer.get_build_config()["input_shape"])
    if layer.axis % rank != 1:
        raise ValueError(
            "Argument `axis` must be 1, where PyTorch has the channels. "
            f"Received: axis={layer.axis}, an input of rank {rank}"
        )
    return rank
