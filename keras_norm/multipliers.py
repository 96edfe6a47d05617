"""The learning-rate and L2 multiplier that every Keras variable can carry."""

import keras

from keras_norm import _validation

LR = "lr_multiplier"
L2 = "l2_multiplier"


def lr_multiplier(variable):
    """Returns the factor on the learning rate that `variable` carries; 1.0 where none was set."""
    return getattr(variable, LR, 1.0)


def l2_multiplier(variable):
    """Returns the factor on the L2 factor that `variable` carries; 1.0 where none was set."""
    return getattr(variable, L2, 1.0)


def check(name, value):
    """Returns `value` as a float if it is a finite number >= 0, and raises otherwise."""
    return _validation.real(name, value, low=0.0)


def set_multipliers(variable_or_layer, lr=None, l2=None):
    """Sets the multipliers of a variable, or of every weight of a layer or model.

    `keras_norm.optimizers.MultiplierOptimizer` then trains the variable with

        learning rate = lr * learning rate of the optimizer
        L2 factor = l2 * l2 of the optimizer

    Other optimizers take no notice. Multipliers are read when a training step is traced: compile
    the model again after a change, as with `trainable`.

    Args:
        variable_or_layer: A Keras variable, layer or model. A layer must be built.
        lr: Factor on the learning rate, a finite number >= 0. None leaves it as it is.
        l2: Factor on the L2 factor, a finite number >= 0. None leaves it as it is.

    Raises:
        TypeError: If the first argument is neither a variable nor a layer, or a multiplier is no
            number.
        ValueError: If a multiplier is negative or not finite, or the layer has no weights yet.

    Example:
    >>> import keras, keras_norm
    >>> dense = keras.layers.Dense(3)
    >>> dense.build((None, 4))
    >>> keras_norm.set_multipliers(dense, lr=0.1)
    >>> keras_norm.set_multipliers(dense.bias, l2=0)
    >>> dense.bias.lr_multiplier, dense.bias.l2_multiplier
    (0.1, 0.0)

    Reference:
        MATLAB's factors,
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.layer.setlearnratefactor.html
    """
    lr = None if lr is None else check("lr", lr)
    l2 = None if l2 is None else check("l2", l2)
    for variable in _variables(variable_or_layer):
        if lr is not None:
            setattr(variable, LR, lr)
        if l2 is not None:
            setattr(variable, L2, l2)


def restore(variable, lr, l2):
    """Sets the multipliers that `variable` had when it was saved, where it carries none."""
    for name, value in ((LR, lr), (L2, l2)):
        if not hasattr(variable, name):
            setattr(variable, name, value)


def layerwise_lr_decay(model, decay):
    """Sets learning-rate multipliers that shrink from a model's output to its input.

    With n layers that have weights, the weights of layer i, counted from the input and from 1,
    get the learning-rate multiplier

        decay ** (n - i)

    The last layer keeps the full rate, and each layer nearer the input gets `decay` times the
    rate of the one after it. Layers count in the order of `model.layers`; those of a model inside
    the model count one by one, layers without weights do not count, and weights that several
    layers share belong to the first. Weights that a model has besides those of its layers, such as
    embeddings of positions, count as a layer before these. Multipliers that were set before are
    replaced.

    Args:
        model: A built Keras model.
        decay: Ratio of neighbouring layers' rates, a finite number >= 0. Usual are 0.65 to 0.95.

    Raises:
        TypeError: If `model` is no Keras model, or `decay` no number.
        ValueError: If the model has no weights yet, or `decay` is negative or not finite.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.ReLU(),
    ...     keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> keras_norm.layerwise_lr_decay(model, 0.5)
    >>> [weight.lr_multiplier for weight in model.weights]
    [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]

    Reference:
        Howard and Ruder, "Universal language model fine-tuning for text classification", 2018,
        https://arxiv.org/abs/1801.06146, which calls it discriminative fine-tuning
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a Keras model. "
            f"Received: {model!r} (of type {type(model).__name__})"
        )
    decay = check("decay", decay)
    seen: set[int] = set()
    layers = []
    for weights in _weights_by_layer(model):
        weights = [weight for weight in weights if id(weight) not in seen]
        seen.update(map(id, weights))
        if weights:
            layers.append(weights)
    if not layers:
        raise _no_weights(model)
    for distance, weights in enumerate(reversed(layers)):
        for weight in weights:
            set_multipliers(weight, lr=decay**distance)


def _weights_by_layer(layer):
    """Returns a list of weights for each layer in a model, and for a model before its layers."""
    if not isinstance(layer, keras.Model):
        return [layer.weights]
    found = [weights for child in layer.layers for weights in _weights_by_layer(child)]
    known = {id(weight) for weights in found for weight in weights}
    return [[weight for weight in layer.weights if id(weight) not in known], *found]


def _variables(variable_or_layer):
    if isinstance(variable_or_layer, keras.Variable):
        return [variable_or_layer]
    if not isinstance(variable_or_layer, keras.layers.Layer):
        raise TypeError(
            "Argument `variable_or_layer` must be a Keras variable or layer. "
            f"Received: {variable_or_layer!r} (of type {type(variable_or_layer).__name__})"
        )
    if not variable_or_layer.weights:
        raise _no_weights(variable_or_layer)
    return variable_or_layer.weights


def _no_weights(layer):
    return ValueError(
        f"Layer '{layer.name}' has no weights to set multipliers of. "
        "Build it first: call it on an input, or call `build(input_shape)`."
    )
