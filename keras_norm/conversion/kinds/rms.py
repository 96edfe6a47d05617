"""RMS normalization in Keras, PyTorch and Flax."""

import keras

from keras_norm import _keras, layers
from keras_norm.conversion import flax_modules, keras_layers, torch_modules
from keras_norm.conversion.affine import Folding, of_parameters
from keras_norm.conversion.arguments import names_last_axes, require
from keras_norm.conversion.kinds.kind import Kind
from keras_norm.conversion.unmasked import Unmasked

_OF_KERAS = ("epsilon", "activity_regularizer", "name", "trainable")


@keras.saving.register_keras_serializable("keras_norm")
class UnmaskedRMSNormalization(Unmasked, layers.RMSNormalization):  # type: ignore[misc]
    """`RMSNormalization` that drops a mask without using it, like Keras's layer."""

    def compute_mask(self, inputs, previous_mask):
        """Returns None: the layers that follow get no mask."""


def from_keras(layer, makes_masks):
    """Returns our layer for Keras's RMSNormalization."""
    _check_axis(layer)
    cls = UnmaskedRMSNormalization if makes_masks else layers.RMSNormalization
    arguments = {name: getattr(layer, name) for name in _OF_KERAS}
    return cls(axis=keras_layers.axis_of(layer), dtype=layer.dtype_policy, **arguments)


def to_keras(layer, makes_masks):
    """Returns Keras's layer for our RMSNormalization."""
    _check_axis(layer)
    axes = keras_layers.spanned_and_reduced(layer, makes_masks)
    for name, accepted in {
        "scale": True,
        "center": False,
        "gamma_offset": 0.0,
        "gamma_regularizer": None,
        "gamma_constraint": None,
    }.items():
        require(name, getattr(layer, name), accepted)
    if not layer.built and not isinstance(layer.gamma_initializer, keras.initializers.Ones):
        raise ValueError(
            "Argument `gamma_initializer` must be 'ones' until the layer is built: Keras's layer "
            f"has no such argument. Received: {layer.gamma_initializer!r}"
        )
    arguments = keras_layers.arguments(layer)
    return keras.layers.RMSNormalization(
        axis=axes, dtype=arguments["dtype"], **{name: arguments[name] for name in _OF_KERAS}
    )


def _check_axis(layer):
    """Raises for axes that are not the last ones, where Keras's layer multiplies along the last.

    On PyTorch, Keras's layer multiplies along the named axes since 3.16.
    """
    is_right = keras.backend.backend() == "torch" and _keras.VERSION >= (3, 16)
    if not (is_right or names_last_axes(layer)):
        keras_layers.refuse_axis(layer)


def from_torch(module):
    """Returns our layer for an RMSNorm of PyTorch."""
    import torch

    # PyTorch's epsilon for None depends on the dtype of the computation.
    is_double = module.weight is not None and module.weight.dtype == torch.float64
    computed_in = torch.float64 if is_double else torch.float32
    epsilon = torch.finfo(computed_in).eps if module.eps is None else module.eps
    return torch_modules.from_last_axes(layers.RMSNormalization, module, epsilon)


def to_torch(layer):
    """Returns an RMSNorm for our RMSNormalization."""
    from torch import nn

    require("center", layer.center, False)
    return nn.RMSNorm(torch_modules.last_sizes(layer), layer.epsilon)


def from_flax(module):
    """Returns our layer for an nnx.RMSNorm."""
    return flax_modules.from_axes(layers.RMSNormalization, module)


def folding(layer):
    """Returns the `Folding` of a layer, ours or Keras's."""
    if isinstance(layer, keras.layers.RMSNormalization):
        return Folding(
            layer, "Keras's layer always has a scale; convert the model with `from_keras` first"
        )
    return of_parameters(layer)


KIND = Kind(
    layer=layers.RMSNormalization,
    keras=keras.layers.RMSNormalization,
    from_keras=from_keras,
    to_keras=to_keras,
    torch={"RMSNorm": from_torch},
    to_torch=to_torch,
    flax={"RMSNorm": from_flax},
    folding=folding,
    variants=(UnmaskedRMSNormalization,),
)
