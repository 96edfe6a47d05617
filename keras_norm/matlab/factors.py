"""MATLAB's functions that set and get the factors of a parameter."""

import keras

from keras_norm import _name_value, _validation, multipliers
from keras_norm.layers.normalization import Normalization
from keras_norm.matlab import parameters

_OURS = {"Scale": "gamma", "Offset": "beta"}


def setLearnRateFactor(layer, *arguments):
    """Sets the factor on the learning rate of one of a layer's parameters.

        setLearnRateFactor(layer, parameterName, factor)
        setLearnRateFactor(net, layerName, parameterName, factor)
        setLearnRateFactor(net, parameterPath, factor)

    `trainnet`, and every `keras_norm.optimizers.MultiplierOptimizer`, then trains the parameter
    at `factor` times its learning rate. Layers of `keras_norm` need not be built. Unlike MATLAB,
    which returns a changed copy, this function changes the layer or model itself.

    Args:
        layer: A Keras layer, or a model followed by the name of a layer in it; "block/bn" is the
            layer "bn" of an inner model "block", and "block/bn/Scale" the path of a parameter of
            that layer.
        *arguments: The parameter's name, and the factor: a finite number >= 0. Parameters are
            "Scale" and "Offset" of normalization layers; "Weights" and "Bias" of dense,
            convolution and embedding layers; "InputWeights", "RecurrentWeights" and "Bias" of
            recurrent layers; other layers have Keras's names.

    Returns:
        The layer or the model.

    Raises:
        TypeError: If there are too many or too few arguments, or one is of a wrong type.
        ValueError: If there is no such layer or parameter, the layer has no variables yet, or the
            factor is negative or not finite.

    Example:
    >>> from keras_norm import matlab
    >>> layer = matlab.batchNormalizationLayer(Name="BN1")
    >>> layer = matlab.setLearnRateFactor(layer, "Scale", 2)
    >>> matlab.getLearnRateFactor(layer, "Scale")
    2.0

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.layer.setlearnratefactor.html
    """
    return _set("setLearnRateFactor", multipliers.LR, layer, arguments)


def setL2Factor(layer, *arguments):
    """Sets the factor on the L2 regularization of one of a layer's parameters.

        setL2Factor(layer, parameterName, factor)
        setL2Factor(net, layerName, parameterName, factor)
        setL2Factor(net, parameterPath, factor)

    `trainnet` then adds `factor * L2Regularization * parameter` to the parameter's gradient.

    Args:
        layer: As in `setLearnRateFactor`.
        *arguments: As in `setLearnRateFactor`.

    Returns:
        The layer or the model.

    Raises:
        TypeError: As in `setLearnRateFactor`.
        ValueError: As in `setLearnRateFactor`.

    Example:
    >>> import keras
    >>> from keras_norm import matlab
    >>> net = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="fc")])
    >>> net = matlab.setL2Factor(net, "fc", "Weights", 0.5)
    >>> matlab.getL2Factor(net, "fc", "Weights"), matlab.getL2Factor(net, "fc", "Bias")
    (0.5, 0.0)

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.layer.setl2factor.html
    """
    return _set("setL2Factor", multipliers.L2, layer, arguments)


def getLearnRateFactor(layer, *arguments):
    """Returns the factor on the learning rate of one of a layer's parameters.

        getLearnRateFactor(layer, parameterName)
        getLearnRateFactor(net, layerName, parameterName)
        getLearnRateFactor(net, parameterPath)

    Args:
        layer: As in `setLearnRateFactor`.
        *arguments: The parameter's name.

    Returns:
        The factor, a float; 1.0 where none was set.

    Raises:
        TypeError: As in `setLearnRateFactor`.
        ValueError: As in `setLearnRateFactor`.

    Example:
    >>> from keras_norm import matlab
    >>> matlab.getLearnRateFactor(matlab.groupNormalizationLayer(2), "Offset")
    1.0

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.layer.getlearnratefactor.html
    """
    return _get("getLearnRateFactor", multipliers.LR, layer, arguments)


def getL2Factor(layer, *arguments):
    """Returns the factor on the L2 regularization of one of a layer's parameters.

        getL2Factor(layer, parameterName)
        getL2Factor(net, layerName, parameterName)
        getL2Factor(net, parameterPath)

    Args:
        layer: As in `setLearnRateFactor`.
        *arguments: The parameter's name.

    Returns:
        The factor, a float. The default is 0.0 for "Bias" and 1.0 for all others, as in MATLAB and
        `trainnet`.

    Raises:
        TypeError: As in `setLearnRateFactor`.
        ValueError: As in `setLearnRateFactor`.

    Example:
    >>> from keras_norm import matlab
    >>> matlab.getL2Factor(matlab.layerNormalizationLayer(), "Scale")
    1.0

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.layer.getl2factor.html
    """
    return _get("getL2Factor", multipliers.L2, layer, arguments)


def leave_biases_out_of_l2(net):
    """Sets the L2 factor of each bias without one to 0, the default of MATLAB's layers."""
    for variable in net.trainable_variables:
        if _has_default(variable, multipliers.L2):
            multipliers.set_multipliers(variable, l2=0.0)


def _has_default(variable, multiplier):
    """Returns whether the factor is MATLAB's default for biases, 0."""
    unset = not hasattr(variable, multiplier)
    return unset and multiplier == multipliers.L2 and variable.name == "bias"


def _set(function, multiplier, owner, arguments):
    names = ("parameterName", "factor")
    layer, name, factor = _parse(function, owner, arguments, names)
    if isinstance(factor, str):
        raise TypeError(f"{_forms(function, names)}. Received: factor={_validation.shown(factor)}")
    factor = multipliers.checked_multiplier("factor", factor)
    target, attribute = _place(layer, name, multiplier)
    setattr(target, attribute, factor)
    return owner


def _get(function, multiplier, owner, arguments):
    layer, name = _parse(function, owner, arguments, ("parameterName",))
    target, attribute = _place(layer, name, multiplier)
    if attribute == multiplier and _has_default(target, multiplier):
        return 0.0
    return getattr(target, attribute, 1.0)


def _parse(function, owner, arguments, names):
    """Returns the layer and the other arguments, for any of the three forms of a call."""
    if len(arguments) == len(names):
        path, *rest = arguments
        if isinstance(owner, keras.Model) and isinstance(path, str) and "/" in path:
            layer_name, _, path = path.rpartition("/")
            owner = parameters.find_layer(owner, layer_name)
        return owner, path, *rest
    if len(arguments) == len(names) + 1:
        return parameters.find_layer(owner, arguments[0]), *arguments[1:]
    forms = _forms(function, names)
    raise TypeError(f"{forms}. Received: {len(arguments) + 1} arguments")


def _forms(function, names):
    rest = ", ".join(names[1:])
    places = ("layer, parameterName", "net, layerName, parameterName", "net, parameterPath")
    forms = [f"({place}, {rest})" if rest else f"({place})" for place in places]
    return f"{function} takes {forms[0]}, {forms[1]} or {forms[2]}"


def _place(layer, name, multiplier):
    """Returns the object that stores a parameter's factor, and the attribute's name."""
    if isinstance(layer, Normalization):
        has = {"Scale": layer.scale, "Offset": layer.center}
        names = [parameter for parameter in _OURS if has[parameter]]
        if isinstance(name, str) and name in names:
            return layer, f"{_OURS[name]}_{multiplier}"
    elif not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "Argument `layer` must be a Keras layer, or a model followed by a layer's name. "
            f"Received: {_validation.shown(layer)} (of type {type(layer).__name__})"
        )
    elif not layer.weights:
        raise ValueError(
            f"Layer '{layer.name}' has no parameters. "
            "If it is not built, call it on an input, or call `build(input_shape)`."
        )
    else:
        found = parameters.variables(layer)
        names = list(found)
        if isinstance(name, str) and name in found:
            return found[name], multiplier
    raise ValueError(
        f"Layer '{layer.name}' ({type(layer).__name__}) has no parameter {_validation.shown(name)}."
        f"{_name_value.hint(name, names)} It has: {', '.join(names) or 'none'}"
    )
