"""MATLAB's `trainnet`, on Keras's `fit`."""

import keras
import numpy as np

from keras_norm import _name_value, _validation
from keras_norm._contents import layers_of
from keras_norm.callbacks import PopulationStatistics
from keras_norm.layers import BatchNormalization
from keras_norm.matlab import data_checks
from keras_norm.matlab.data_checks import CROSSENTROPY, INDEX_CROSSENTROPY
from keras_norm.matlab.factors import leave_biases_out_of_l2
from keras_norm.matlab.options import TrainingOptions
from keras_norm.matlab.progress import TrainingProgress
from keras_norm.optimizers import MultiplierOptimizer

LOSSES = {
    CROSSENTROPY: keras.losses.CategoricalCrossentropy,
    INDEX_CROSSENTROPY: keras.losses.SparseCategoricalCrossentropy,
    "binary-crossentropy": keras.losses.BinaryCrossentropy,
    **dict.fromkeys(("mse", "mean-squared-error", "l2loss"), keras.losses.MeanSquaredError),
    **dict.fromkeys(("mae", "mean-absolute-error", "l1loss"), keras.losses.MeanAbsoluteError),
    "huber": keras.losses.Huber,
}


def trainnet(x, y, net, lossFcn, options):
    """Trains a model with MATLAB's options, by Keras's `fit`.

    The optimizer is a `keras_norm.optimizers.MultiplierOptimizer`, which applies learning-rate and
    L2 factors:

        gradient = gradient of the loss + L2Regularization * L2 factor * parameter
        parameter = update at (learning rate * learning-rate factor) from the clipped gradient

    As in MATLAB, the default L2 factor of biases is 0; it is set on the model. Unlike in MATLAB,
    the model itself is trained (and compiled), the last mini-batch of an epoch may be smaller than
    the others, and validation follows each epoch.

    Args:
        x: Training inputs, an array or a structure of arrays, whose first axis counts samples.
        y: Training targets, in the same form. For "crossentropy" they are one-hot.
        net: A Keras model.
        lossFcn: "crossentropy" or "binary-crossentropy" of probabilities, "index-crossentropy" of
            probabilities and classes counted from 0 (MATLAB counts from 1); "mse", "mae" or
            "huber": the mean over all elements. "l2loss" and "mean-squared-error" mean "mse",
            "l1loss" and "mean-absolute-error" mean "mae". Or a `keras.losses.Loss`.
        options: The result of `trainingOptions`.

    Returns:
        `net`. The losses of the epochs are in `net.history.history`.

    Raises:
        TypeError: If `net` is not a model, `options` is not from `trainingOptions`, or `lossFcn` is
            neither a name nor a Keras loss.
        ValueError: Before the first step, if the loss is unknown; if `x` and `y`, or the validation
            data, have no samples or different numbers of samples, or do not fit the model; if
            targets do not fit the loss: their shape differs from the outputs, they are not one-hot,
            or are classes that are not counted from 0; or if BatchNormalizationStatistics is
            "population" and the model has trainable layers of Keras's own BatchNormalization,
            which keep moving statistics.

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
            f"Argument `net` must be a Keras model. Received: {_validation.shown(net)} (of type "
            f"{type(net).__name__}). The order is trainnet(x, y, net, lossFcn, options)"
        )
    if not isinstance(options, TrainingOptions):
        raise TypeError(
            "Argument `options` must come from `keras_norm.matlab.trainingOptions`. "
            f"Received: {_validation.shown(options)} (of type {type(options).__name__})"
        )
    loss, loss_name = _loss(lossFcn)
    data_checks.check_data(("`x`", "`y`"), x, y, net, loss, loss_name)
    if options.ValidationData is not None:
        names = ("The inputs in `ValidationData`", "The targets in `ValidationData`")
        inputs, targets = options.ValidationData
        data_checks.check_data(names, inputs, targets, net, loss, loss_name)
    callbacks = list(_callbacks(x, net, options))
    if options.Shuffle == "once":
        x, y = _shuffled(x, y)
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
        callbacks=callbacks,
    )
    return net


def _loss(loss):
    """Returns Keras's loss, and MATLAB's name of it if it was given by name."""
    if isinstance(loss, keras.losses.Loss):
        return loss, None
    if not isinstance(loss, str):
        raise TypeError(
            "Argument `lossFcn` must be a `keras.losses.Loss`, or one of "
            f"{', '.join(map(repr, LOSSES))}. Received: {_validation.shown(loss)}"
        )
    name = _name_value.choice("lossFcn", loss, tuple(LOSSES))
    return LOSSES[name](), name


def _callbacks(x, net, options):
    yield keras.callbacks.LearningRateScheduler(lambda epoch, _: options.learning_rate(epoch))
    if options.Plots == "training-progress":
        yield TrainingProgress()
    if options.BatchNormalizationStatistics == "population":
        layers = layers_of(net)
        _refuse_kerass(layers)
        if any(isinstance(layer, BatchNormalization) for layer in layers):
            yield PopulationStatistics(x, batch_size=options.MiniBatchSize, verbose=0)


def _refuse_kerass(layers):
    kerass = keras.layers.BatchNormalization
    names = [layer.name for layer in layers if isinstance(layer, kerass) and layer.trainable]
    if names:
        raise ValueError(
            "BatchNormalizationStatistics='population' needs `keras_norm.BatchNormalization`; "
            "Keras's own layers would keep moving statistics. Convert the model with "
            f"`keras_norm.from_keras(net)`, or choose 'moving'. Received: {', '.join(names[:8])}"
        )


def _shuffled(x, y):
    x, y = keras.tree.map_structure(keras.ops.convert_to_numpy, (x, y))
    order = np.random.permutation(len(keras.tree.flatten(x)[0]))  # noqa: NPY002 Keras's seed
    return keras.tree.map_structure(lambda array: array[order], (x, y))
