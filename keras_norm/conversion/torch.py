"""PyTorch's modules into our layers, and back."""

import keras

from keras_norm import layers
from keras_norm.conversion.arguments import affine_arguments, check, sorted_axes

_LAYERS = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
)
# Where a module fixes the rank of its input, its layer can be built at once.
_RANKS = {
    "BatchNorm2d": 4,
    "BatchNorm3d": 5,
    "InstanceNorm1d": 3,
    "InstanceNorm2d": 4,
    "InstanceNorm3d": 5,
}


def from_torch(module):
    """Returns our layer that does what a normalization module of PyTorch does.

    | PyTorch | keras_norm |
    | --- | --- |
    | BatchNorm1d, 2d, 3d | `BatchNormalization(axis=1)` |
    | SyncBatchNorm | `BatchNormalization(axis=1, synchronized=True)` |
    | LayerNorm | `LayerNormalization` with the last axes as `axis` and `reduction_axes` |
    | GroupNorm | `GroupNormalization(axis=1)` |
    | InstanceNorm1d, 2d, 3d | `GroupNormalization("channel-wise", axis=1)` |

    Outputs are equal in training and in inference. Two things to know of batch normalization:

    - PyTorch's `momentum` is the share of the new batch, ours that of the old statistics: 0.1 there
      is 0.9 here.
    - PyTorch normalizes with the biased variance, as we do, but moves `running_var` with the
      unbiased one, n / (n - 1) times as large for a batch of n values per channel. What has been
      gathered is taken as it is, since inference uses it as it is: outputs stay equal. In further
      training our moving variance moves towards values that are (n - 1) / n as large.

    `requires_grad` is left out: set `trainable` of the layer's gamma and beta.

    Args:
        module: The module, on any device. The layer works on whichever backend Keras runs.

    Returns:
        A layer with the module's values. Where the module leaves the rank of its input open
        (BatchNorm1d, SyncBatchNorm, GroupNorm), the layer is built when it is first called; until
        then the values are its initializers.

    Raises:
        TypeError: If `module` is none of these.
        ValueError: If the module does what our layer cannot: `momentum=None`, which averages over
            all batches; `track_running_stats=False` of batch normalization, which has no inference
            of its own; `track_running_stats=True` of instance normalization.

    Example:
    >>> import torch
    >>> from keras_norm.conversion import from_torch
    >>> layer = from_torch(torch.nn.BatchNorm2d(8))
    >>> layer.axis, layer.momentum, tuple(layer.moving_mean.shape)
    (1, 0.9, (8,))

    Reference:
        https://docs.pytorch.org/docs/stable/nn.html#normalization-layers
    """
    try:
        layer = _from_module(module)
    except ValueError as error:
        raise ValueError(f"{module} cannot be converted. {error}") from error
    rank = _RANKS.get(type(module).__name__)
    if rank is not None:
        layer.build((None, layer.num_channels, *[None] * (rank - 2)))
    return layer


def to_torch(layer):
    """Returns PyTorch's module that does what one of our layers does.

    The way back from `from_torch`, with the same values. A frozen layer (`trainable=False`) runs in
    inference, a module in training mode never does: call `eval()` on it. Moving variances are taken
    as they are, see `from_torch`.

    Args:
        layer: A built layer of keras_norm. Batch and group normalization must have their channels
            on axis 1; layer normalization the last axes as both `axis` and `reduction_axes`.

    Returns:
        A `torch.nn` module on the CPU, in training mode: BatchNorm1d, 2d or 3d as the layer's rank
        says (or SyncBatchNorm), LayerNorm, or GroupNorm.

    Raises:
        TypeError: If `layer` is none of our layers.
        ValueError: If the layer is not built, or PyTorch's module cannot do the same. The message
            names layer and argument.

    Example:
    >>> import keras_norm
    >>> layer = keras_norm.GroupNormalization(groups=2, axis=1)
    >>> layer.build((None, 6, 5, 5))
    >>> module = keras_norm.conversion.to_torch(layer)
    >>> type(module).__name__, module.num_groups, module.num_channels
    ('GroupNorm', 2, 6)

    Reference:
        https://docs.pytorch.org/docs/stable/nn.html#normalization-layers
    """
    if not isinstance(layer, _LAYERS):
        raise TypeError(
            "Argument `layer` must be a BatchNormalization, LayerNormalization or "
            f"GroupNormalization of keras_norm. Received: {layer!r} "
            f"(of type {type(layer).__name__})"
        )
    described = f"Layer '{layer.name}' ({type(layer).__name__})"
    if not layer.built:
        raise ValueError(
            f"{described} must be built before it can become a module. Call it on an input, or "
            "call `build(input_shape)`."
        )
    import torch

    try:
        module = _to_module(layer)
    except ValueError as error:
        raise ValueError(f"{described} cannot be converted. {error}") from error
    for parameter, variable in ((module.weight, layer.gamma), (module.bias, layer.beta)):
        if variable is None:
            parameter.requires_grad_(False)  # it stays at 1, or 0
        else:
            _copy(parameter, variable)
            parameter.requires_grad_(layer.trainable and variable.trainable)
    return module.to(getattr(torch, layer.variable_dtype))


def _from_module(module):
    from torch import nn

    batch = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    if isinstance(module, batch):
        return _from_batch_norm(module, synchronized=isinstance(module, nn.SyncBatchNorm))
    if isinstance(module, nn.LayerNorm):
        return _from_layer_norm(module)
    if isinstance(module, nn.GroupNorm):
        return _from_channels(module, module.num_channels, groups=module.num_groups)
    if isinstance(module, (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)):
        check("track_running_stats", module.track_running_stats, False)
        return _from_channels(module, module.num_features, groups="channel-wise")
    raise TypeError(
        "Argument `module` must be a BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm, "
        "LayerNorm, GroupNorm or InstanceNorm1d, InstanceNorm2d, InstanceNorm3d of torch.nn. "
        f"Received: {module!r} (of type {type(module).__name__})"
    )


def _from_batch_norm(module, synchronized):
    check("track_running_stats", module.track_running_stats, True)
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


def _from_layer_norm(module):
    rank = len(module.normalized_shape)
    axis = -1 if rank == 1 else list(range(-rank, 0))
    layer = layers.LayerNormalization(
        axis=axis, reduction_axes=axis, **_arguments(module, module.weight)
    )
    layer.build((None, *module.normalized_shape))
    return layer


def _from_channels(module, channels, groups):
    return layers.GroupNormalization(
        groups=groups, axis=1, num_channels=channels, **_arguments(module, module.weight)
    )


def _arguments(module, typical):
    """Returns the arguments that all have; the dtype is that of `typical`, where there is one."""
    return {
        "epsilon": module.eps,
        "dtype": None if typical is None else str(typical.dtype).removeprefix("torch."),
        **affine_arguments(_array(module.weight), _array(module.bias)),
    }


def _to_module(layer):
    """Returns the module for a layer, with the statistics and without gamma and beta."""
    from torch import nn

    if isinstance(layer, layers.LayerNormalization):
        return nn.LayerNorm(_last_sizes(layer), layer.epsilon)
    rank = _rank_with_channels_on_axis_1(layer)
    if isinstance(layer, layers.GroupNormalization):
        groups = {"all-channels": 1, "channel-wise": layer.num_channels, -1: layer.num_channels}
        groups = groups.get(layer.groups, layer.groups)
        return nn.GroupNorm(groups, layer.num_channels, layer.epsilon)
    check("variance_momentum", layer.variance_momentum, None, layer.momentum)
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
    _copy(module.running_mean, layer.moving_mean)
    _copy(module.running_var, layer.moving_variance)
    return module


def _array(tensor):
    return None if tensor is None else tensor.detach().cpu().double().numpy()


def _copy(tensor, variable):
    import torch

    values = torch.from_numpy(keras.ops.convert_to_numpy(variable).astype("float64"))
    tensor.data = values.to(getattr(torch, variable.dtype))


def _last_sizes(layer):
    """Returns the sizes of the last axes, after checking that the layer names only these."""
    shape = layer.get_build_config()["input_shape"]
    axes = sorted_axes(layer, "axis")
    last = list(range(len(shape) - len(axes), len(shape)))
    if not axes == sorted_axes(layer, "reduction_axes") == last:
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
