"""Checks of data before the first step of `trainnet`."""

import keras
import numpy as np

from keras_norm import _validation

CROSSENTROPY = "crossentropy"
INDEX_CROSSENTROPY = "index-crossentropy"
# Error of a row of probabilities in float16 with some 1,000 classes.
_PROBABILITY_TOLERANCE = 1e-2


def check_data(names, x, y, net, loss, loss_name):
    """Checks inputs and targets against a model and its loss.

    Args:
        names: The user's names for inputs and targets, for messages.
        x: Inputs, an array or a structure of arrays.
        y: Targets, in the same form.
        net: The model. It is called on the first sample, in inference.
        loss: The Keras loss.
        loss_name: MATLAB's name of the loss; None if the user passed a Keras loss, whose targets
            can have other values.

    Raises:
        ValueError: If there are no samples, or unequal numbers of them, or the targets do not fit
            the model's outputs or the loss.
    """
    _check_samples(names, x, y)
    _check_inputs(names[0], x, net)
    try:
        outputs = net(keras.tree.map_structure(lambda array: array[:1], x))
    except Exception as error:
        raise ValueError(
            f"{names[0]} does not fit the model. Received: {names[0]} of shape {_shapes(x)}. "
            f"The model's error is: {error}"
        ) from error
    targets, outputs = keras.tree.flatten(y), keras.tree.flatten(outputs)
    if len(targets) != len(outputs):
        raise ValueError(
            f"{names[1]} must have an array for each output of the model. Received: "
            f"{len(targets)} arrays for {len(outputs)} outputs"
        )
    for target, output in zip(targets, outputs, strict=True):
        _check_targets(names[1], _numbers(names[1], target), tuple(output.shape), loss, loss_name)


def _check_samples(names, x, y):
    sizes = {np.shape(array)[:1] for array in keras.tree.flatten((x, y))}
    plain = [name.replace("`", "") for name in names]
    received = f"{plain[0]} of shape {_shapes(x)}, {plain[1]} of shape {_shapes(y)}"
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"{names[0]} and {names[1]} must be arrays, or structures of arrays, with the same "
            f"number of samples on their first axes. Received: {received}"
        )
    if sizes == {(0,)}:
        raise ValueError(
            f"{names[0]} and {names[1]} must have at least one sample. Received: {received}"
        )


def _check_inputs(name, x, net):
    """Checks what Keras would only warn about: arrays without an input, and imaginary parts."""
    arrays = keras.tree.flatten(x)
    inputs = getattr(net, "inputs", None)  # a model that is not built has none
    if inputs and isinstance(x, list | tuple) and len(arrays) != len(inputs):
        raise ValueError(
            f"{name} must have an array for each input of the model. Received: "
            f"{len(arrays)} arrays for {len(inputs)} inputs"
        )
    for array in arrays:
        if np.iscomplexobj(keras.ops.convert_to_numpy(array)):
            raise ValueError(
                f"{name} must be real: give real and imaginary parts as channels. "
                f"Received: an array of dtype {array.dtype}"
            )


def _shapes(data):
    return _validation.shown(keras.tree.map_structure(np.shape, data)).replace('"', "")


def _numbers(name, target):
    array = np.asarray(keras.ops.convert_to_numpy(target))
    if array.dtype.kind not in "biuf":
        try:
            if np.iscomplexobj(array):
                raise TypeError("Imaginary parts would be lost.")
            array = array.astype("float64")  # for example bfloat16
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} must be real numbers. Received: an array of dtype {array.dtype}"
            ) from error
    return array


def _check_targets(name, targets, outputs, loss, loss_name):
    described = f"{name} of '{loss_name}'" if loss_name else f"{name} of {type(loss).__name__}"
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        _check_index_shape(described, targets.shape, outputs)
    elif isinstance(loss, keras.losses.CategoricalCrossentropy):
        _check_one_hot_shape(described, targets.shape, outputs)
    elif _compares_shapes(loss) and not _same_size(targets.shape, outputs):
        raise ValueError(
            f"{described} must have the shape of the model's outputs, {_expected(outputs)}. "
            f"Received: targets of shape {targets.shape}"
        )
    if loss_name is None:
        return
    if not np.isfinite(targets).all():
        raise ValueError(f"{described} must be finite numbers. Received: NaN or infinity")
    if loss_name == INDEX_CROSSENTROPY:
        _check_classes(described, targets, outputs[-1])
    if loss_name == CROSSENTROPY:
        _check_probabilities(described, targets)
    if loss_name == "binary-crossentropy" and not np.all((targets >= 0) & (targets <= 1)):
        raise ValueError(
            f"{described} must be from 0 to 1. "
            f"Received: numbers from {targets.min()} to {targets.max()}"
        )


# Losses of Keras for classes, or for sequences that are shorter than the outputs.
_OF_OTHER_SHAPES = (
    keras.losses.CTC,
    keras.losses.CategoricalGeneralizedCrossEntropy,
    keras.losses.Circle,
)


def _compares_shapes(loss):
    """Returns whether a loss is one of Keras for targets of the shape of the outputs.

    Keras would broadcast others over the outputs.
    """
    cls = type(loss)
    return getattr(keras.losses, cls.__name__, None) is cls and cls not in _OF_OTHER_SHAPES


def _same_size(targets, outputs):
    """Returns whether the sizes of samples agree; an axis of 1 at the end may be left out."""
    targets, outputs = targets[1:], outputs[1:]
    return targets == outputs or (*targets, 1) == outputs or targets == (*outputs, 1)


def _expected(outputs):
    return ("samples", *outputs[1:])


def _check_one_hot_shape(described, targets, outputs):
    if targets[1:] != outputs[1:]:
        raise ValueError(
            f"{described} must be one-hot, of the shape of the outputs: {_expected(outputs)}. "
            f"Received: targets of shape {targets}. Use '{INDEX_CROSSENTROPY}' for classes "
            "counted from 0, or `keras.utils.to_categorical`."
        )


def _check_index_shape(described, targets, outputs):
    if targets[1:] not in (outputs[1:-1], (*outputs[1:-1], 1)):
        raise ValueError(
            f"{described} must be one class for each sample, of shape {_expected(outputs[:-1])}, "
            f"as the outputs have shape {_expected(outputs)}. Received: targets of shape {targets}"
        )


def _check_probabilities(described, targets):
    sums = targets.sum(-1, dtype="float64")
    if not (np.all(targets >= 0) and np.all(np.abs(sums - 1) <= _PROBABILITY_TOLERANCE)):
        raise ValueError(
            f"{described} must be one-hot, or probabilities >= 0 whose sum is 1 for each sample. "
            f"Received: numbers from {targets.min()} to {targets.max()}, with sums from "
            f"{sums.min():g} to {sums.max():g}"
        )


def _check_classes(described, targets, classes):
    if not (targets.min() >= 0 and targets.max() < classes):
        raise ValueError(
            f"{described} must be classes from 0 to {classes - 1}, as the model has {classes} "
            f"outputs. Received: classes from {targets.min()} to {targets.max()}. "
            "If they are counted from 1, as in MATLAB, subtract 1."
        )
    fractions = targets[targets != np.floor(targets)]
    if fractions.size:
        raise ValueError(
            f"{described} must be classes, whole numbers from 0 to {classes - 1}. "
            f"Received: {fractions.flat[0]}"
        )
