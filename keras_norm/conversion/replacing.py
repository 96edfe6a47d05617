"""Replaces the normalization layers of a model with others."""

import keras

from keras_norm._contents import contents
from keras_norm._validation import shown
from keras_norm.conversion.arguments import check_layer, common_arguments
from keras_norm.conversion.copying import copied
from keras_norm.conversion.kinds import kind_of
from keras_norm.conversion.placing import put_in_place
from keras_norm.layers import BatchNormalization, GroupNormalization

MOST_GROUPS = 32


def replace_normalization(model, function):
    """Returns a copy of a model with other normalization layers, and prints the replacements.

    Layers are found in functional, Sequential and subclassed models, and in inner models, wrappers
    and custom layers, shared or not. Everything else is copied unchanged, including a custom
    `train_step`. The copy shares no weights with `model`, and is not compiled.

    Args:
        model: A Keras model or layer. It does not change.
        function: Function of a normalization layer, of Keras or keras_norm, that returns a new
            layer, or None to keep the layer. `batch_to_group` is such a function. The new layer is
            built for the input of the old one, and gets the weights of the same name and size.

    Returns:
        The copy.

    Raises:
        TypeError: If `model` is not a Keras layer, `function` is not callable, or does not return
            a new layer.
        ValueError: If a layer must be built first, or if a compiled function contains the layer,
            which cannot be copied. The message names the layer.

    Example:
    >>> import keras
    >>> from keras_norm.conversion import batch_to_group, replace_normalization
    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 12)), keras.layers.BatchNormalization(name="norm")]
    ... )
    >>> model = replace_normalization(model, batch_to_group)
    norm: BatchNormalization -> GroupNormalization (kept gamma, beta)
    >>> model.layers[0].groups
    12

    Reference:
        Wu and He, "Group normalization", 2018, https://arxiv.org/abs/1803.08494
    """
    if not callable(function):
        raise TypeError(f"Argument `function` must be callable. Received: {shown(function)}")
    model, replaced = exchange(model, lambda x: None if kind_of(x) is None else function(x))
    for old, new, kept in replaced:
        print(
            f"{old.name}: {type(old).__name__} -> {type(new).__name__} "
            f"(kept {', '.join(kept) or 'no weights'})"
        )
    if not replaced:
        print("No normalization layer was replaced.")
    return model


def batch_to_group(layer):
    """Returns a `GroupNormalization` for a batch normalization layer, and None for others.

    The layer has as many groups as possible, up to 32. If samples have no positions, it has one
    group, as groups of a single number would become 0. Arguments that both layers have are copied.

    Args:
        layer: A built layer.

    Returns:
        A new `keras_norm.GroupNormalization`, or None.

    Raises:
        ValueError: If the layer is not built, so that its number of channels is unknown.

    Example:
    >>> import keras
    >>> from keras_norm.conversion import batch_to_group
    >>> layer = keras.layers.BatchNormalization()
    >>> layer.build((None, 8, 8, 66))
    >>> batch_to_group(layer).groups
    22

    Reference:
        Wu and He, "Group normalization", 2018, https://arxiv.org/abs/1803.08494
    """
    if not isinstance(layer, (keras.layers.BatchNormalization, BatchNormalization)):
        return None
    if not layer.built:
        raise ValueError(
            f"Layer '{layer.name}' must be built, so that its number of channels is known. Call "
            "the model on an input first, or its `build(input_shape)`."
        )
    channels = layer.moving_mean.shape[0]
    most = 1 if len(layer.get_build_config()["input_shape"]) == 2 else MOST_GROUPS
    return GroupNormalization(
        groups=max(n for n in range(1, most + 1) if channels % n == 0),
        **common_arguments(layer),
    )


def exchange(model, function):
    """Returns a copy of `model` with the layers that `function` returns, and a list of these.

    An entry of the list is a tuple of old layer, new layer, and names of the kept weights.
    """
    check_layer("model", model)
    replaced = []
    substitutes = {}
    for old in contents(model):
        if not isinstance(old, keras.layers.Layer):
            continue
        new = function(old)
        if new is None:
            continue
        if not isinstance(new, keras.layers.Layer) or new is old:
            raise TypeError(
                "Argument `function` must return a new Keras layer, or None to keep the layer. "
                f"Received: {shown(new)} for layer '{old.name}'"
            )
        variables = put_in_place(new, old)
        substitutes[id(old)] = new
        substitutes.update((id(before), after) for before, after in variables)
        replaced.append((old, new, [after.name for _, after in variables]))
    return copied(model, substitutes), replaced
