"""Callbacks for `fit`."""

import textwrap
import warnings

import keras

from keras_norm import _validation, population
from keras_norm.diagnosis import diagnose
from keras_norm.optimizers import MultiplierOptimizer, report

__all__ = ["Diagnosis", "LogLearningRates", "MergeMovingStatistics", "PopulationStatistics"]


def _shortened(error):
    """Returns the type and text of an error. Some errors of Keras quote a whole batch."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 400, placeholder=" ...")


class LogLearningRates(keras.callbacks.Callback):
    """Writes the learning rates of a `MultiplierOptimizer` into the logs, at the end of each epoch.

    Each group of variables has one entry, `learning_rate/<name>`: the optimizer's current learning
    rate times the group's current multiplier. Groups are:

    - the variables that match a pattern of `lr_multipliers`, named by the pattern;
    - the other variables of a layer, named by the layer. If they have several rates, each has an
      entry, `learning_rate/<layer>/<variable>`.

    Layers of the same name, as in nested models, are numbered: `dense`, `dense:2`. The names are
    the same after the model is loaded from a file. List callbacks that read the logs, such as
    `CSVLogger` and `TensorBoard`, after this one.

    Raises:
        TypeError: When `fit` begins, if the model's optimizer is not a `MultiplierOptimizer` or a
            `LossScaleOptimizer` around one.

    Example:
    >>> import keras, keras_norm
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="head")])
    >>> keras_norm.set_multipliers(model, lr=0.5)
    >>> model.compile(keras_norm.optimizers.MultiplierOptimizer(keras.optimizers.SGD(0.5)), "mse")
    >>> callback = keras_norm.callbacks.LogLearningRates()
    >>> history = model.fit(np.ones((4, 1)), np.ones((4, 1)), callbacks=[callback], verbose=0)
    >>> history.history["learning_rate/head"]
    [0.25]

    Reference:
        Keras's callback for curves, https://keras.io/api/callbacks/tensorboard/
    """

    def on_train_begin(self, logs=None):
        """Checks the optimizer before training."""
        self._optimizer()

    def on_epoch_end(self, epoch, logs=None):
        """Writes the rates into `logs`."""
        if logs is not None:
            rates = report.learning_rates(self._optimizer())
            logs.update({f"learning_rate/{name}": rate for name, rate in rates.items()})

    def _optimizer(self):
        optimizer = self.model.optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer = optimizer.inner_optimizer
        if not isinstance(optimizer, MultiplierOptimizer):
            raise TypeError(
                "LogLearningRates needs a model that was compiled with a "
                "`keras_norm.optimizers.MultiplierOptimizer`. "
                f"Received: the optimizer {type(optimizer).__name__}"
            )
        return optimizer


class MergeMovingStatistics(keras.callbacks.Callback):
    """Merges the moving statistics of all replicas at the end of each epoch.

    The callback calls `keras_norm.merge_moving_statistics`. It sends one message per epoch;
    `synchronized=True` sends three per layer and step. Unlike `PopulationStatistics`, it needs no
    pass over data. List callbacks that save the model after this one.

    Raises:
        ValueError: When `fit` begins, if the model has no `keras_norm.BatchNormalization` layer.

    Example:
    >>> import keras, keras_norm
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras_norm.BatchNormalization()])
    >>> model.compile(loss="mse")
    >>> callback = keras_norm.callbacks.MergeMovingStatistics()  # in every process
    >>> _ = model.fit(np.ones((4, 1)), np.ones((4, 1)), callbacks=[callback], verbose=0)

    Reference:
        Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and
        recommendations", The American Statistician 37 (1983), 242-247
    """

    def on_train_begin(self, logs=None):
        """Checks the model before the time for its training is spent."""
        if self.model.built:
            population.normalizations(self.model)

    def on_epoch_end(self, epoch, logs=None):
        """Merges the statistics."""
        population.merge_moving_statistics(self.model)


class PopulationStatistics(keras.callbacks.Callback):
    """Sets the statistics of batch normalization to those of all of the data when `fit` ends.

    The callback calls `keras_norm.update_population_statistics`, after `fit` has applied the
    averaged weights of an optimizer with `use_ema`. List callbacks that restore weights at the end
    of training, such as `EarlyStopping` with `restore_best_weights`, before this one.

    If an update fails, the callback warns and the layers keep their moving statistics: the trained
    model is not lost. An endless generator needs `steps`. Without `steps`, the first pass uses up a
    generator: several passes, `every` and `before_validation` are then errors.

    Args:
        x: The data, as `fit` takes it; usually the training data.
        batch_size: Positive integer, samples per batch of arrays; None for 32.
        steps: Positive integer, number of batches in a pass; None for all.
        passes: Positive integer, the number of passes over the data.
        verbose: "auto", 0, 1 or 2, as in `evaluate`.
        before_validation: Boolean, whether to update before each validation too. Training continues
            from these statistics.
        every: Positive integer n, to update after every n epochs too; None for only at the end.
        merge_replicas: Boolean, whether all processes get the statistics of the data of all of
            them; see `update_population_statistics`.

    Raises:
        TypeError: If `before_validation` or `merge_replicas` is not a boolean.
        ValueError: If a number is not a positive integer, `x` is None, or a generator is read more
            than once; and when `fit` begins, if the model has no `keras_norm.BatchNormalization`
            layer.

    Example:
    >>> import keras, keras_norm
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras_norm.BatchNormalization()])
    >>> model.compile(loss="mse")
    >>> x = np.array([[1.0], [2.0], [6.0]], "float32")
    >>> callback = keras_norm.callbacks.PopulationStatistics(x, verbose=0)
    >>> _ = model.fit(x, x, callbacks=[callback], verbose=0)
    >>> np.asarray(model.layers[0].moving_mean).tolist()
    [3.0]

    Reference:
        Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576
    """

    def __init__(
        self,
        x,
        batch_size=None,
        steps=None,
        passes=1,
        verbose="auto",
        before_validation=False,
        every=None,
        merge_replicas=False,
    ):
        super().__init__()
        before_validation = _validation.boolean("before_validation", before_validation)
        is_read_again = before_validation or every is not None
        population.check_data_arguments(x, batch_size, steps, passes, is_read_again)
        if every is not None:
            population.check_positive("every", every)
        self.x = x
        self.batch_size = batch_size
        self.steps = steps
        self.passes = passes
        self.verbose = verbose
        self.before_validation = before_validation
        self.every = every
        self.merge_replicas = _validation.boolean("merge_replicas", merge_replicas)
        self._in_fit = False

    def set_model(self, model):
        """Takes the model when `fit`, or an `evaluate` outside of `fit`, begins."""
        super().set_model(model)
        self._in_fit = False

    def on_train_begin(self, logs=None):
        """Checks the model before the time for its training is spent."""
        if self.model.built:
            population.normalizations(self.model)
        self._in_fit = True

    def on_test_begin(self, logs=None):
        """Updates the statistics before a validation, with `before_validation`."""
        if self.before_validation and self._in_fit:
            self._update()

    def on_epoch_end(self, epoch, logs=None):
        """Updates the statistics after every n epochs, with `every`."""
        if self.every and (epoch + 1) % self.every == 0:
            self._update()

    def on_train_end(self, logs=None):
        """Updates the statistics."""
        self._update()

    def _update(self):
        try:
            population.update_population_statistics(
                self.model,
                self.x,
                self.batch_size,
                self.steps,
                self.passes,
                self.verbose,
                self.merge_replicas,
            )
        except Exception as error:
            # An error here must not lose hours of training.
            warnings.warn(
                "PopulationStatistics failed, and the layers keep their moving statistics. Fix the "
                "cause, then call `keras_norm.update_population_statistics(model, x)`. The error "
                f"was {_shortened(error)}",
                stacklevel=2,
            )


class Diagnosis(keras.callbacks.Callback):
    """Prints faults of the normalization layers of a model while it trains.

    Every n epochs, the callback calls `keras_norm.diagnose`, and prints a table of the new
    findings. In one `fit`, it prints each kind of fault once for each layer.

    If a diagnosis fails, the callback warns and the training continues.

    Args:
        x: The data, as `fit` takes it; usually a part of the training data. A generator needs
            `steps`, as each diagnosis reads it.
        batch_size: Positive integer, samples per batch of arrays, as in training; None for 32.
        steps: Positive integer, number of batches; None for all.
        every: Positive integer, the number of epochs between two diagnoses.

    Raises:
        ValueError: If a number is not a positive integer, `x` is None, or a generator comes without
            `steps`.

    Example:
    >>> import keras, keras_norm
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras_norm.BatchNormalization(name="norm")])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(100, 1, (64, 1)).astype("float32")
    >>> callback = keras_norm.callbacks.Diagnosis(x)
    >>> _ = model.fit(x, x, callbacks=[callback], verbose=0)
    Diagnosis after epoch 1:
    layer  kind        channels  value
    norm   statistics  1 of 1    ...

    Reference:
        Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576
    """

    def __init__(self, x, batch_size=None, steps=None, every=1):
        super().__init__()
        population.check_data_arguments(x, batch_size, steps, is_read_again=True)
        population.check_positive("every", every)
        self.x = x
        self.batch_size = batch_size
        self.steps = steps
        self.every = every
        self._printed = set()

    def on_train_begin(self, logs=None):
        """Forgets the findings that an earlier `fit` printed."""
        self._printed = set()

    def on_epoch_end(self, epoch, logs=None):
        """Prints new findings, after every n epochs."""
        if (epoch + 1) % self.every:
            return
        try:
            report = diagnose(self.model, self.x, self.batch_size, self.steps, verbose=0)
        except Exception as error:
            # An error here must not stop the training.
            warnings.warn(
                f"Diagnosis failed after epoch {epoch + 1}, and the training continues. "
                f"The error was {_shortened(error)}",
                stacklevel=2,
            )
            return
        new = report.without(self._printed)
        self._printed |= {finding.key for finding in new.findings}
        if new.findings:
            print(f"Diagnosis after epoch {epoch + 1}:\n{new}")
