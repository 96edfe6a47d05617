"""Arguments of normalization layers: conversions read, check and create them here."""

import keras

from keras_norm import _validation


def check_layer(name, layer):
    """Checks that an argument is a Keras model or layer."""
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            f"Argument `{name}` must be a Keras model or layer. "
            f"Received: {_validation.shown(layer)} (of type {type(layer).__name__})"
        )


def common_arguments(layer):
    """Returns the arguments that all normalization layers have, with the layer's current values."""
    names = ["axis", "epsilon", "center", "scale", "activity_regularizer", "name", "trainable"]
    names += [
        f"{variable}_{kind}"
        for variable in ("beta", "gamma")
        for kind in ("initializer", "regularizer", "constraint")
    ]
    return {"dtype": layer.dtype_policy, **{name: getattr(layer, name) for name in names}}


def affine_arguments(gamma, beta):
    """Returns the arguments for values of gamma and beta; None means without."""
    arguments = {"scale": gamma is not None, "center": beta is not None}
    if gamma is not None:
        arguments["gamma_initializer"] = gamma
    if beta is not None:
        arguments["beta_initializer"] = beta
    return arguments


def sorted_axes(layer, name):
    """Returns the axes that an argument of `layer` names, as a sorted list.

    None means all axes except the batch. If the layer is built, so that the rank of its input is
    known, the axes are counted from the front.
    """
    axes = getattr(layer, name)
    shape = layer.get_build_config()["input_shape"] if layer.built else ()
    if axes is None:
        return list(range(1, len(shape)))
    axes = axes if isinstance(axes, list | tuple) else [axes]
    return sorted(axis % len(shape) if shape else axis for axis in axes)


def reduced_axes(layer):
    """Returns the axes that the moments of `layer` are taken over, as `sorted_axes` does."""
    is_default = layer.reduction_axes is None and layer.reduces_axis
    return sorted_axes(layer, "axis" if is_default else "reduction_axes")


def names_last_axes(layer):
    """Returns whether `axis` names the last axes of a layer's input, as far as that is known."""
    axes = sorted_axes(layer, "axis")
    rank = len(layer.get_build_config()["input_shape"]) if layer.built else 0
    return axes == list(range(rank - len(axes), rank))


def require(name, value, *accepted):
    """Raises if an argument has a value that the target layer does not support."""
    if value not in accepted:
        raise ValueError(
            f"Argument `{name}` must be {accepted[0]}: the other layer has no such argument. "
            f"Received: {name}={value}"
        )


def change_of(layer, known):
    """Returns how a layer differs from one of the class `known`, for a message; or None.

    It differs by a `call` of its own, or by PyTorch's forward hooks.
    """
    if name := overridden(layer, known, ("call", "__call__")):
        return f"overrides `{name}`"
    hooks = (getattr(layer, name, None) for name in ("_forward_hooks", "_forward_pre_hooks"))
    return "has forward hooks" if any(hooks) else None


def overridden(x, known, names):
    """Returns the first of `names` whose method `x` overrides, compared with the class `known`."""
    for name in names:
        if name in vars(x) or getattr(type(x), name, None) is not getattr(known, name, None):
            return name
    return None
