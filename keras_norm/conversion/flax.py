"""Conversion of Flax's modules to our layers."""

from keras_norm._validation import shown
from keras_norm.conversion.arguments import require
from keras_norm.conversion.kinds import KINDS, names
from keras_norm.conversion.registry import translated


def from_flax(module):
    """Converts a normalization module of Flax (nnx) to the equivalent layer of keras_norm.

    | Flax | keras_norm |
    | --- | --- |
    | nnx.BatchNorm | `BatchNormalization` |
    | nnx.LayerNorm | `LayerNormalization` |
    | nnx.GroupNorm | `GroupNormalization` |
    | nnx.InstanceNorm | `InstanceNormalization` |
    | nnx.RMSNorm | `RMSNormalization` |

    Outputs are equal in training and in inference, and so are updates of the statistics: momentum
    and variance have the same meaning. A 16-bit `dtype` with float32 parameters becomes mixed
    precision. Without a `dtype`, Flax promotes dtypes, where Keras casts to the parameters' dtype.

    Args:
        module: The module. The layer works on whichever backend Keras runs.

    Returns:
        A layer with the module's values. Its first call builds it; until then its initializers
        contain the values.

    Raises:
        TypeError: If `module` is not one of these.
        ValueError: If our layer does not support an argument: moments over the devices of an
            `axis_name`, `reduction_axes` of group normalization, or a `dtype` that differs from
            the dtype of parameters that are not float32.

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
        getattr(nnx, name): translate for kind in KINDS for name, translate in kind.flax.items()
    }
    if type(module) not in translations:
        raise TypeError(
            f"Argument `module` must be a {names('flax')} of flax.nnx, or of a class with a "
            f"registered translation. Received: {shown(module)} (of type {type(module).__name__})"
        )
    try:
        require("axis_name", module.axis_name, None)
        return translations[type(module)](module)
    except ValueError as error:
        name = type(module).__name__
        raise ValueError(f"The nnx.{name} cannot be converted. {error}") from error
