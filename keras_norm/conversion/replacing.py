"""Other normalization layers in a model."""

import keras

from keras_norm._contents import contents
from keras_norm.conversion.arguments import common_arguments
from keras_norm.conversion.copying import copied
from keras_norm.conversion.kinds import kind_of
from keras_norm.conversion.placing import put_in_place
from keras_norm.layers import BatchNormalization, GroupNormalization

MOST_GROUPS = 32


def replace_normalization(model, function):
    """Returns a copy of a model with other normalization layers, and prints what was replaced.

    Layers are found wherever they are: in functional, Sequential and subclassed models, in
    models, wrappers and custom layers within them, shared or not. Class, names, weights,
    trainable flags and dtype policies of all else stay, also a `train_step` of the model's own.
    The copy shares no weights with `model` and has to be compiled.

    Args:
        model: A Keras model or layer. It is left as it is.
        function: Function that gets each normalization layer, Keras's and ours, and returns a new
            layer for it, or None to leave it. `batch_to_group` is one.
            The new layer is built for the old one's input, and gets its weights as far as they
            have the same name and size.

    Returns:
        The copy.

    Raises:
        TypeError: If `model` is not a Keras layer, or `function` does not return a new layer.
        ValueError: If a layer has to be built first, or is in a compiled function, where nothing
            can reach it. The message names the layer.

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

    It has as many groups as possible, up to 32, or one where a sample has no positions: groups of
    a single number would become 0. The arguments are those that both layers have.

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
            f"Layer '{layer.name}' must be built before groups of its channels can be made. Call "
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

    An entry of the list is a tuple of old layer, new layer, and names of the weights kept.
    """
    if not isinstance(model, keras.layers.Layer):
        raise TypeError(
            f"Argument `model` must be a Keras model or layer. Received: {model!r} "
            f"(of type {type(model).__name__})"
        )
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
                "Argument `function` must return a new Keras layer, or None to leave a layer as "
                f"it is. Received: {new!r} for layer '{old.name}'"
            )
        variables = put_in_place(new, old)
        substitutes[id(old)] = new
        substitutes.update((id(before), after) for before, after in variables)
        replaced.append((old, new, [after.name for _, after in variables]))
    return copied(model, substitutes), replaced
