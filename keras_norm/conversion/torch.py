"""Conversion of PyTorch's modules to our layers, and back."""

import warnings

from keras_norm._validation import shown
from keras_norm.conversion.arguments import change_of, overridden
from keras_norm.conversion.kinds import KINDS, kind_of, names, our_names
from keras_norm.conversion.registry import translated
from keras_norm.conversion.torch_modules import copy_values

# Where a module fixes the rank of its input, its layer can be built at once.
_RANKS = {
    "BatchNorm2d": 4,
    "BatchNorm3d": 5,
    "InstanceNorm1d": 3,
    "InstanceNorm2d": 4,
    "InstanceNorm3d": 5,
}


def from_torch(module):
    """Converts a normalization module of PyTorch to the equivalent layer of keras_norm.

    | PyTorch | keras_norm |
    | --- | --- |
    | BatchNorm1d, 2d, 3d | `BatchNormalization(axis=1)` |
    | SyncBatchNorm | `BatchNormalization(axis=1, synchronized=True)` |
    | LayerNorm | `LayerNormalization` with the last axes as `axis` and `reduction_axes` |
    | GroupNorm | `GroupNormalization(axis=1)` |
    | InstanceNorm1d, 2d, 3d | `InstanceNormalization(axis=1)` |
    | RMSNorm | `RMSNormalization` with the last axes as `axis` |

    Outputs are equal in training and in inference. Batch normalization has two differences:

    - PyTorch's `momentum` is the weight of the new batch, ours that of the old statistics: 0.1
      becomes 0.9.
    - Both normalize with the biased variance, but PyTorch updates `running_var` with the unbiased
      variance, which is n / (n - 1) times as large for a batch of n values per channel. The layer
      gets `running_var` unchanged, so outputs in inference are equal. In further training, its
      moving variance moves towards values that are (n - 1) / n as large.

    `requires_grad` is not converted: set `trainable` of the layer's gamma and beta. Forward hooks
    are not converted either, and cause a warning.

    A class derived from one of these is converted like its parent. If it overrides `forward`,
    register a translation with `keras_norm.conversion.register`.

    Args:
        module: The module, on any device. The layer works on whichever backend Keras runs.

    Returns:
        A layer with the module's values. If the module accepts inputs of several ranks
        (BatchNorm1d, SyncBatchNorm, GroupNorm), the first call builds the layer; until then its
        initializers contain the values.

    Raises:
        TypeError: If `module` is not one of these, or derived from one with another `forward`.
        ValueError: If the module has no values (it is lazy, or on the meta device), has
            parametrizations, or has an argument that our layer does not support: `momentum=None`,
            which averages over all batches; `track_running_stats=False` of batch normalization,
            which has no separate inference; `track_running_stats=True` of instance normalization.

    Example:
    >>> import torch
    >>> from keras_norm.conversion import from_torch
    >>> layer = from_torch(torch.nn.BatchNorm2d(8))
    >>> layer.axis, layer.momentum, tuple(layer.moving_mean.shape)
    (1, 0.9, (8,))

    Reference:
        https://docs.pytorch.org/docs/stable/nn.html#normalization-layers
    """
    layer = translated(module)
    if layer is not None:
        return layer
    known, translate = _known(module)
    _check_values(module)
    if module._forward_hooks or module._forward_pre_hooks:
        warnings.warn(
            f"{module} is converted without its forward hooks: if they change inputs or outputs, "
            "the outputs of the layer differ.",
            stacklevel=2,
        )
    try:
        layer = translate(module)
    except ValueError as error:
        raise ValueError(f"{module} cannot be converted. {error}") from error
    rank = _RANKS.get(known)
    if rank is not None:
        layer.build((None, layer.num_channels, *[None] * (rank - 2)))
    return layer


def to_torch(layer):
    """Converts a layer of keras_norm to the equivalent module of PyTorch.

    The inverse of `from_torch`, with the same values. A frozen layer (`trainable=False`) runs in
    inference; a module in training mode does not: call `eval()` on it. Moving variances are copied
    unchanged, see `from_torch`.

    Args:
        layer: A built layer of keras_norm. Batch and group normalization must have their channels
            on axis 1; layer normalization the last axes as both `axis` and `reduction_axes`.

    Returns:
        A `torch.nn` module on the CPU, in training mode: BatchNorm1d, 2d or 3d for the layer's rank
        (or SyncBatchNorm), LayerNorm, GroupNorm (also for instance normalization), or RMSNorm (with
        `gamma_offset` added to its weight). `requires_grad` of a parameter is `trainable` of its
        variable: setting `layer.trainable` sets both variables, and a later
        `layer.gamma.trainable = True` trains gamma of a frozen layer, as in Keras.

    Raises:
        TypeError: If `layer` is not a layer of keras_norm, overrides `call`, or has forward hooks.
        ValueError: If the layer is not built, or PyTorch's module does not support an argument. The
            message names layer and argument.

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
    kind = kind_of(layer)
    if kind is None or not isinstance(layer, kind.layer):
        raise TypeError(
            f"Argument `layer` must be a {our_names()} of keras_norm. Received: {shown(layer)} "
            f"(of type {type(layer).__name__})"
        )
    described = f"Layer '{layer.name}' ({type(layer).__name__})"
    if change := change_of(layer, kind.parent_of(layer)):
        raise TypeError(f"{described} {change}, so its equivalent is unknown.")
    if not layer.built:
        raise ValueError(
            f"{described} must be built before the conversion. Call it on an input, or "
            "call `build(input_shape)`."
        )
    import torch

    try:
        module = kind.to_torch(layer)
    except ValueError as error:
        raise ValueError(f"{described} cannot be converted. {error}") from error
    offset = getattr(layer, "gamma_offset", 0.0)
    for name, variable, added in (("weight", layer.gamma, offset), ("bias", layer.beta, 0.0)):
        parameter = getattr(module, name, None)
        if variable is not None:
            copy_values(parameter, variable, added)
            parameter.requires_grad_(variable.trainable)
        elif parameter is not None:
            parameter.requires_grad_(False)  # it stays at 1, or 0
    return module.to(getattr(torch, layer.variable_dtype))


def _known(module):
    """Returns the name of PyTorch's class that a module is or derives from; and its translation.

    Raises:
        TypeError: If there is none, or the module runs something else.
    """
    from torch import nn

    known = {
        getattr(nn, name): (name, translate)
        for kind in KINDS
        for name, translate in kind.torch.items()
    }
    parent = next((cls for cls in type(module).__mro__ if cls in known), None)
    if parent is None and hasattr(module, "cls_to_become"):
        parent = module.cls_to_become
    if parent not in known:
        raise TypeError(
            f"Argument `module` must be a {names('torch')} of torch.nn, or of a class with a "
            f"registered translation. Received: {shown(module)} (of type {type(module).__name__})"
        )
    if name := overridden(module, parent, ("forward", "_apply_instance_norm")):
        raise TypeError(
            f"{type(module).__name__} is derived from torch.nn.{parent.__name__} and overrides "
            f"`{name}`, so its equivalent is unknown. Register a translation with "
            f"`keras_norm.conversion.register`. Received: {shown(module)}"
        )
    return known[parent]


def _check_values(module):
    from torch.nn.parameter import is_lazy

    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    if any(map(is_lazy, tensors.values())):
        raise ValueError(
            f"{type(module).__name__} has no values yet: call it on a batch, then convert it."
        )
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ValueError(
            f"{module} cannot be converted. It is on the meta device, where tensors have no "
            "values: load the values on another device first."
        )
    if found := sorted(getattr(module, "parametrizations", ())):
        raise ValueError(
            f"{module} cannot be converted. It has parametrizations (of {', '.join(found)}), "
            "which layers do not support: make them permanent with "
            "`torch.nn.utils.parametrize.remove_parametrizations`."
        )
