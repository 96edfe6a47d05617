"""Flax's modules into our layers."""

from keras_norm.conversion.arguments import require
from keras_norm.conversion.kinds import KINDS, names
from keras_norm.conversion.registry import translated


def from_flax(module):
    """Returns our layer that does what a normalization module of Flax (nnx) does.

    | Flax | keras_norm |
    | --- | --- |
    | nnx.BatchNorm | `BatchNormalization` |
    | nnx.LayerNorm | `LayerNormalization` |
    | nnx.GroupNorm | `GroupNormalization` |
    | nnx.InstanceNorm | `InstanceNormalization` |
    | nnx.RMSNorm | `RMSNormalization` |

    Outputs are equal in training and in inference, and so is what becomes of the statistics:
    momentum and variance mean the same as ours. A `dtype` of 16 bits over parameters of float32 is
    mixed precision here. Without a `dtype`, Flax promotes, where Keras casts to that of parameters.

    Args:
        module: The module. The layer works on whichever backend Keras runs.

    Returns:
        A layer with the module's values. It is built when it is first called; until then the
        values are its initializers.

    Raises:
        TypeError: If `module` is none of these.
        ValueError: If the module does what our layer cannot: moments over the devices of an
            `axis_name`, other `reduction_axes` of group normalization than its own, or another
            `dtype` than that of parameters that are not float32.

    Example:
    >>> from flax import nnx
    >>> from keras_norm.conversion import from_flax
    >>> layer = from_flax(nnx.BatchNorm(8, momentum=0.95, rngs=nnx.Rngs(0)))
    >>> layer.axis, layer.momentum, layer.num_channels
    (-1, 0.95, 8)

    Reference:
        https://flax.readthedocs.io/en/latest/api_reference/flax.nnx/nn/normalization.html
    """
    from flax import nnx

    layer = translated(module)
    if layer is not None:
        return layer
    translations = {
        getattr(nnx, name): translate
        for kind in KINDS
        for name, translate in kind.flax.items()
        if hasattr(nnx, name)
    }
    if type(module) not in translations:
        raise TypeError(
            f"Argument `module` must be a {names('flax')} of flax.nnx, or of a class with a "
            f"registered translation. Received: {module!r} (of type {type(module).__name__})"
        )
    try:
        require("axis_name", module.axis_name, None)
        return translations[type(module)](module)
    except ValueError as error:
        name = type(module).__name__
        raise ValueError(f"The nnx.{name} cannot be converted. {error}") from error
