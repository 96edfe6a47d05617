"""MATLAB's `trainnet`, on Keras's `fit`."""

import reprlib

import keras
import numpy as np

from keras_norm import _name_value
from keras_norm.callbacks import PopulationStatistics
from keras_norm.layers import BatchNormalization
from keras_norm.matlab.factors import leave_biases_out_of_l2
from keras_norm.matlab.options import TrainingOptions
from keras_norm.matlab.progress import TrainingProgress
from keras_norm.optimizers import MultiplierOptimizer

_CROSSENTROPY = "crossentropy"
_INDEX_CROSSENTROPY = "index-crossentropy"
LOSSES = {
    _CROSSENTROPY: keras.losses.CategoricalCrossentropy,
    _INDEX_CROSSENTROPY: keras.losses.SparseCategoricalCrossentropy,
    "binary-crossentropy": keras.losses.BinaryCrossentropy,
    **dict.fromkeys(("mse", "mean-squared-error", "l2loss"), keras.losses.MeanSquaredError),
    **dict.fromkeys(("mae", "mean-absolute-error", "l1loss"), keras.losses.MeanAbsoluteError),
    "huber": keras.losses.Huber,
}


def trainnet(x, y, net, lossFcn, options):
    """Trains a model as MATLAB's options say, with Keras's `fit`.

    The optimizer is a `keras_norm.optimizers.MultiplierOptimizer`, so that learning-rate and L2
    factors take effect:

        gradient = gradient of the loss + L2Regularization * L2 factor * parameter
        parameter = update at (learning rate * learning-rate factor) from the clipped gradient

    As in MATLAB, biases of layers have the L2 factor 0 if they were given no other; this is set
    on the model. Other than in MATLAB, the model itself is trained (and compiled), the last
    mini-batch of an epoch may be smaller than the others, and validation is after each epoch.

    Args:
        x: Training inputs, an array or a structure of arrays, whose first axis counts samples.
        y: Training targets, likewise. For "crossentropy" one-hot, as MATLAB's are in the end.
        net: A Keras model.
        lossFcn: "crossentropy" or "binary-crossentropy" of probabilities, "index-crossentropy" of
            probabilities and classes counted from 0 (MATLAB counts from 1); "mse", "mae" or
            "huber"; the mean over all elements. "l2loss" and "mean-squared-error" are "mse",
            "l1loss" and "mean-absolute-error" "mae". Or a `keras.losses.Loss`.
        options: What `trainingOptions` returned.

    Returns:
        `net`. The losses of the epochs are in `net.history.history`.

    Raises:
        TypeError: If `net` is no model, `options` came from elsewhere, or `lossFcn` is neither
            a name nor a loss of Keras.
        ValueError: If the loss is unknown, `x` and `y` have different numbers of samples, or
            targets do not fit the loss: not one-hot, or classes that are not counted from 0.

    Example:
    >>> import keras, numpy as np
    >>> from keras_norm import matlab
    >>> keras.utils.set_random_seed(0)
    >>> net = keras.Sequential([
    ...     keras.Input((3,)), matlab.batchNormalizationLayer(), keras.layers.Dense(1)
    ... ])
    >>> x = np.random.normal(5, 2, (64, 3))
    >>> options = matlab.trainingOptions(
    ...     "sgdm", MaxEpochs=1, Verbose=False, BatchNormalizationStatistics="population"
    ... )
    >>> net = matlab.trainnet(x, x.sum(1, keepdims=True), net, "mse", options)
    >>> mean = matlab.properties(net.layers[0])["TrainedMean"]
    >>> np.allclose(mean, x.mean(0), rtol=1e-5)
    True

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/trainnet.html
    """
    if not isinstance(net, keras.Model):
        raise TypeError(
            f"Argument `net` must be a Keras model. Received: {net!r} (of type "
            f"{type(net).__name__}). The order is trainnet(x, y, net, lossFcn, options)"
        )
    if not isinstance(options, TrainingOptions):
        raise TypeError(
            "Argument `options` must come from `keras_norm.matlab.trainingOptions`. "
            f"Received: {options!r} (of type {type(options).__name__})"
        )
    _check_samples(x, y)
    if options.Shuffle == "once":
        x, y = _shuffled(x, y)
    outputs = net(keras.tree.map_structure(lambda array: array[:1], x))
    loss = _loss(lossFcn, y, outputs)
    leave_biases_out_of_l2(net)
    net.compile(MultiplierOptimizer(options.optimizer(), l2=options.L2Regularization), loss)
    net.fit(
        x,
        y,
        batch_size=options.MiniBatchSize,
        epochs=options.MaxEpochs,
        shuffle=options.Shuffle == "every-epoch",
        validation_data=options.ValidationData,
        verbose=int(options.Verbose),
        callbacks=list(_callbacks(x, net, options)),
    )
    return net


def _loss(loss, y, outputs):
    if isinstance(loss, keras.losses.Loss):
        return loss
    if not isinstance(loss, str):
        raise TypeError(
            "Argument `lossFcn` must be a `keras.losses.Loss`, or one of "
            f"{', '.join(map(repr, LOSSES))}. Received: {loss!r}"
        )
    name = _name_value.choice("lossFcn", loss, tuple(LOSSES))
    if not keras.tree.is_nested(outputs):
        if name == _INDEX_CROSSENTROPY:
            _check_classes(keras.ops.convert_to_numpy(y), outputs.shape[-1])
        if name == _CROSSENTROPY:
            _check_one_hot(np.shape(y), tuple(outputs.shape))
    return LOSSES[name]()


def _check_samples(x, y):
    sizes = {np.shape(array)[:1] for array in keras.tree.flatten((x, y))}
    if len(sizes) > 1 or () in sizes:
        shapes = [reprlib.repr(keras.tree.map_structure(np.shape, data)) for data in (x, y)]
        raise ValueError(
            "`x` and `y` must be arrays, or structures of arrays, with the same number of samples "
            f"on their first axes. Received: x of shape {shapes[0]}, y of shape {shapes[1]}"
        )


def _check_one_hot(targets, outputs):
    if targets[1:] != outputs[1:]:
        raise ValueError(
            f"The targets of '{_CROSSENTROPY}' must be one-hot, of the shape of the outputs: "
            f"{('samples', *outputs[1:])}. Received: targets of shape {targets}. Use "
            f"'{_INDEX_CROSSENTROPY}' for classes that are counted from 0, or "
            "`keras.utils.to_categorical`."
        )


def _check_classes(y, classes):
    if y.size and not (y.min() >= 0 and y.max() < classes):
        raise ValueError(
            f"The targets of '{_INDEX_CROSSENTROPY}' must be classes from 0 to {classes - 1}, as "
            f"the model has {classes} outputs. Received: classes from {y.min()} to {y.max()}. "
            "If they are counted from 1, as in MATLAB, subtract 1."
        )


def _callbacks(x, net, options):
    yield keras.callbacks.LearningRateScheduler(lambda epoch, _: options.learning_rate(epoch))
    if options.Plots == "training-progress":
        yield TrainingProgress()
    normalizes = any(isinstance(layer, BatchNormalization) for layer in net._flatten_layers())
    if options.BatchNormalizationStatistics == "population" and normalizes:
        yield PopulationStatistics(x, batch_size=options.MiniBatchSize, verbose=0)


def _shuffled(x, y):
    x, y = keras.tree.map_structure(keras.ops.convert_to_numpy, (x, y))
    order = np.random.permutation(len(keras.tree.flatten(x)[0]))  # noqa: NPY002 Keras's seed
    return keras.tree.map_structure(lambda array: array[order], (x, y))
