"""Functions that the conversions of several kinds from and to Keras's layers share."""

import keras

from keras_norm.conversion.arguments import common_arguments, reduced_axes, require, sorted_axes
from keras_norm.conversion.unmasked import Unmasked
from keras_norm.initializers import NarrowNormal, SizeFunction, for_shape

_MULTIPLIERS = [f"{v}_{kind}_multiplier" for v in ("beta", "gamma") for kind in ("lr", "l2")]


def axis_of(layer):
    """Returns the axis of Keras's layer as given; Keras converts a number to a list."""
    axis = layer.axis
    return axis[0] if isinstance(axis, list) and len(axis) == 1 else axis


def arguments(layer, names=()):
    """Returns the arguments of Keras's layer for ours: the common ones and those with `names`."""
    for name in _MULTIPLIERS:
        require(name, getattr(layer, name), 1.0)
    arguments = common_arguments(layer) | {name: getattr(layer, name) for name in names}
    for name, value in arguments.items():
        if name.endswith("_initializer"):
            arguments[name] = _initializer(layer, name, value)
    return arguments


def spanned_and_reduced(layer, makes_masks):
    """Returns the axes that gamma spans, after checking that the moments are taken over them.

    They are in the order of the input's axes, which is that of our gamma. They are counted as they
    were given, if all were from the same end: a layer with `axis=-1` takes inputs of several ranks.
    """
    refuse_masks(layer, makes_masks)
    axes = sorted_axes(layer, "axis")
    if axes != reduced_axes(layer):
        raise ValueError(
            "Keras's layer takes the moments over the axes that gamma and beta span: argument "
            "`reduction_axes` must name the same as `axis`. "
            f"Received: reduction_axes={layer.reduction_axes}, axis={layer.axis}"
        )
    given = layer.axis if isinstance(layer.axis, list) else [layer.axis]
    return sorted(given) if len({axis < 0 for axis in given}) == 1 else axes


def refuse_axis(layer):
    """Raises for an `axis` that Keras's layer mistakes for the last axes of its input."""
    state = (
        f"an input of shape {layer.get_build_config()['input_shape']}"
        if layer.built
        else ("a layer that is not built")
    )
    raise ValueError(
        "Argument `axis` must name the last axes: Keras's layer "
        f"({keras.backend.backend()}, Keras {keras.__version__}) treats any axes as the last ones, "
        f"so its outputs do not follow `axis`. Received: axis={layer.axis}, {state}"
    )


def refuse_masks(layer, makes_masks):
    """Raises if a mask reaches a layer that uses it, where Keras's layer supports none."""
    if makes_masks and not isinstance(layer, Unmasked):
        raise ValueError(
            "Keras's layer does not support masks (call argument `mask`), but the model makes "
            "masks (`Masking`, `mask_zero` of `Embedding`, ...)."
        )


def _initializer(layer, name, initializer):
    if isinstance(initializer, NarrowNormal):
        return keras.initializers.RandomNormal(mean=0.0, stddev=0.01, seed=initializer.seed)
    if isinstance(initializer, SizeFunction):
        if initializer.values is None:
            raise ValueError(
                f"Argument `{name}` is a function of the size: build the layer first, so that "
                "the function's values are known."
            )
        initializer = keras.initializers.Constant(initializer.values)
    variable = getattr(layer, name.removesuffix("_initializer"))
    if variable is None:
        return initializer
    return for_shape(initializer, tuple(variable.shape), name, f"layer '{layer.name}'")
