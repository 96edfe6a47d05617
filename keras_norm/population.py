"""Population statistics: mean and variance of all of the data, for inference.

Moving statistics are an average over the last batches, while the weights were still moving, with
each batch's own error. After training the moments of all of the data can be had exactly: the
moments of the population are the merge of the moments of its batches.
"""

import inspect
import threading
import warnings
import weakref
from typing import Any

import keras
from keras import ops

from keras_norm import _validation, engines
from keras_norm._contents import layers_of
from keras_norm.layers import BatchNormalization
from keras_norm.ops import Moments, merge

# Batches of a generator without `steps` after which a warning says that it may have no end.
_MANY_BATCHES = 10_000

_REMEDY = "`keras_norm.from_keras` converts Keras's own BatchNormalization layers."


def update_population_statistics(model, x, batch_size=None, steps=None, passes=1, verbose="auto"):
    """Gives every batch normalization layer the mean and variance of all of the data.

    In one pass over the data, each layer's moments are merged over all batches:

        moving_mean = mean of the layer's inputs over all of the data
        moving_variance = mean of (input - moving_mean)^2 over all of the data

    They are exact (to 2e-6) whatever the batch sizes, and weighted by what masks hold. During the
    pass `BatchNormalization` layers standardize with each batch's own moments, as in training;
    everything else runs in inference. Nothing but these two variables changes, and training can
    go on with moving statistics as before.

    With small batches the moments of the batches are noisy, and so are the inputs that deeper
    layers then see: not those that inference feeds them. `passes=n` repeats the pass, with what
    the passes before found in place of the batches' moments; a model that is n normalizations
    deep is then consistent with its own inference.

    Layers with `trainable=False` keep their statistics and run in inference. An explicit
    `training=False` in a call does not: a part of the model that is called as
    `backbone(x, training=False)` gets new statistics like the rest. Set
    `backbone.trainable = False` to keep those that it has.

    Layers in loops and branches are seen on TensorFlow and PyTorch, and refused on JAX. For a layer
    in the cell of an RNN, give the RNN `unroll=True`, except on TensorFlow (on PyTorch, Keras calls
    the first step twice otherwise). In a function of its own `tf.function` or `jax.jit` a layer
    cannot be seen: that raises an error, or warns if the function was traced before. Layers that
    are used several times get the statistics of all their uses (of those in loops alone, if there
    are any, on TensorFlow).

    A batch in which a layer's moments are not finite is skipped, and counted in a warning; layers
    that no data reaches keep what they have, with a warning. If the data or the model fails, or
    the run is interrupted, the old statistics are back.

    Under `tf.distribute` and `keras.distribution` the moments are those of all replicas. Under
    `torch.distributed` each process calls this with its own data: layers with
    `synchronized=True` get the statistics of the data of all processes (which must have the same
    number of batches), others those of their process.

    Args:
        model: Keras model with `keras_norm.BatchNormalization` layers. Keras's own layers are
            left as they are.
        x: The data, as `fit` takes it: an array, or a list or dict of arrays; or a
            `tf.data.Dataset`, `keras.utils.PyDataset`, PyTorch `DataLoader` or generator of
            `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Targets and sample weights are not used.
        batch_size: Positive integer, samples per batch of arrays; None for 32.
        steps: Positive integer, number of batches in a pass; None for all. Data without an end
            needs it.
        passes: Positive integer, how often to go through the data. A generator serves more than
            one pass only with `steps`.
        verbose: "auto", 0, 1 or 2, as in `evaluate`.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model has no `keras_norm.BatchNormalization` layer, a number is not a
            positive integer (or `passes` more than 1 for a generator without `steps`), the data
            has no end and `steps` is None, or a pass finds no data.
        RuntimeError: If a layer is called where the pass cannot see it.

    Example:
    >>> import keras, keras_norm
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras_norm.BatchNormalization()])
    >>> x = np.array([[1.0], [2.0], [6.0]], "float32")
    >>> keras_norm.update_population_statistics(model, x, batch_size=2, verbose=0)
    >>> np.asarray(model.layers[0].moving_mean).tolist()
    [3.0]

    Reference:
        Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576
    """
    check(x, batch_size, steps, passes)
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. Received: {model!r}")
    if passes > 1 and steps is None and inspect.isgenerator(x):
        raise ValueError(
            "A generator serves one pass, and is then used up: give `steps` too if it goes on, or "
            f"data that can be gone through again. Received: passes={passes}, steps=None"
        )
    with engines.scope(model):
        # Not kept if it fails: a failure leaves Keras's loop in a state of its own.
        run = _passes.pop(model, None)
        if run is None or run.signature != _signature(model):
            run = _Passes(model)
        run.update(x, batch_size, steps, passes, verbose)
        _passes[model] = run


def check(x, batch_size, steps, passes):
    """Checks arguments of `update_population_statistics`."""
    if x is None:
        raise ValueError("Argument `x` must be data, as `fit` takes it. Received: x=None")
    if steps is None and _is_endless(x):
        raise ValueError(
            "The data has no end: give `steps`, the number of batches in a pass. "
            f"Received: steps=None and a {type(x).__name__}"
        )
    for name, value in (("batch_size", batch_size), ("steps", steps), ("passes", passes)):
        is_left_open = value is None and name != "passes"
        if not is_left_open:
            check_positive(name, value)


def check_positive(name, value):
    """Checks that an argument is a positive integer."""
    if not (_validation.is_integer(value) and value >= 1):
        raise ValueError(
            f"Argument `{name}` must be a positive integer. Received: {name}={value!r}"
        )


def _is_endless(x):
    """Says whether data is known to have no end; a generator does not tell."""
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches is None
    cardinality = getattr(x, "cardinality", None)  # of a tf.data.Dataset, -1 for no end
    return (
        cardinality is not None and (cardinality() if callable(cardinality) else cardinality) == -1
    )


def normalizations(model):
    """Returns the layers of a model that can have population statistics.

    Raises:
        ValueError: If there are none.
    """
    layers = layers_of(model)
    ours = [layer for layer in layers if isinstance(layer, BatchNormalization)]
    if not ours:
        theirs = len(_of_keras(model))
        raise ValueError(
            "Population statistics need a model with at least one "
            f"`keras_norm.BatchNormalization` layer. {_REMEDY} Received: model "
            f"'{model.name}' with {len(layers)} layers, {theirs} of them Keras's own "
            "BatchNormalization"
        )
    return ours


def _of_keras(model):
    layers = layers_of(model)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def not_visible(layer):
    """Returns the error for a layer that is called where a pass cannot see it."""
    return RuntimeError(
        f"A pass over data cannot see the layer '{layer.name}', which is called in a function that "
        "is compiled or transformed by itself, as by `tf.function` or `jax.jit`, or on JAX in a "
        "loop or branch. Leave `tf.function` and `jax.jit` to Keras, which compiles the model as "
        "a whole; give an RNN `unroll=True`; or set `trainable=False` on the layer, which then "
        "keeps its statistics."
    )


class Observer:
    """What `BatchNormalization` layers report to while population statistics are found.

    Attributes:
        uses_batch: Whether the layers standardize with their batch's moments, or as in inference.
    """

    def __init__(self):
        self.uses_batch = True
        self._accumulators = {}
        # `tf.distribute` runs replicas in threads of their own, which take turns.
        self._local = threading.local()

    def prepare(self, layers):
        """Makes ready for loops and branches, out of which no tensor gets."""
        # Compiled steps refer to these variables: a later pass keeps them.
        for layer in layers:
            if id(layer) not in self._accumulators:
                shape = (4, layer.num_channels)
                self._accumulators[id(layer)] = engines.accumulator(shape)

    def start(self):
        """Forgets what was seen."""
        self._local.trace = engines.trace()
        self._local.uses = {}
        self._local.nestings = {}

    def see(self, layer, moments):
        """Takes the moments of one use of a layer, whose sets all have the same count."""
        channels = (layer.num_channels,)
        fields = [ops.broadcast_to(ops.reshape(moments.count, (1,)), channels)]
        fields += [ops.reshape(field, channels) for field in moments[1:]]
        part = ops.stack(fields)
        nesting = engines.nesting(self._local.trace)
        if nesting == "none":
            self._local.uses.setdefault(id(layer), []).append(part)
        elif nesting != "function":
            accumulator = self._accumulators[id(layer)]
            accumulator.assign(_merge_parts([accumulator.read_value(), part]))
            self._local.nestings.setdefault(id(layer), set()).add(nesting)
        else:
            # To go on would be worse: the function is kept, and would observe in predictions.
            raise not_visible(layer)

    def parts(self, layers):
        """Returns the moments of all uses of each of the layers, and forgets them."""
        parts = [self._part(layer) for layer in layers]
        self._local.uses = {}
        return parts

    def _part(self, layer):
        uses = self._local.uses.get(id(layer), [])
        nestings = self._local.nestings.get(id(layer), ())
        if "loop" in nestings:
            # Keras calls the step of a loop once more, in front of it, for the shapes.
            uses = []
        if nestings:
            accumulator = self._accumulators[id(layer)]
            uses = [*uses, accumulator.read_value()]
            accumulator.assign(ops.zeros((4, layer.num_channels)))
        if not uses:
            return ops.zeros((4, layer.num_channels))
        return uses[0] if len(uses) == 1 else _merge_parts(uses)


class Union:
    """The merge of any number of parts, in constant memory, with an error that hardly grows.

    A sum of n numbers one after the other is off by n roundings, and counts in float32 stop at 16
    million. So parts are merged `WIDTH` at a time, then what came out of that `WIDTH` at a time,
    and so on, as digits carry in a number.

    A part is an array of shape (4, sets): the fields of `Moments`.
    """

    WIDTH = 16

    def __init__(self, model):
        self._merge = engines.compiled(_merge_parts, model)
        self._levels = []

    def add(self, part, level=0):
        """Adds a part to what is waiting on a level, and merges when the level is full."""
        if level == len(self._levels):
            self._levels.append([])
        waiting = self._levels[level]
        waiting.append(part)
        if len(waiting) == self.WIDTH:
            self.add(self._merged(level), level + 1)

    def result(self):
        """Returns the merge of all parts, and forgets them; None if there are none."""
        for level, waiting in enumerate(self._levels):
            if not waiting:
                continue
            if not any(self._levels[level + 1 :]):
                return self._merged(level)
            self.add(self._merged(level), level + 1)
        return None

    def _merged(self, level):
        waiting = self._levels[level]
        self._levels[level] = []
        empty = [ops.zeros_like(waiting[0])] * (self.WIDTH - len(waiting))
        return self._merge(waiting + empty)


def _merge_parts(parts):
    """Returns the merge of parts, each of them of shape (4, sets)."""
    parts = ops.stack(parts, axis=1)
    return ops.concatenate(merge(Moments(*ops.unstack(parts, 4)), [0]))


class Loop(keras.Model):
    """Keras's loop over data, progress bar included, with another step in it.

    It has no layers and no variables: on JAX, `evaluate` takes a model's values out of its
    variables while it runs, and a failure would leave them there.

    Args:
        step: A function of a batch of inputs.
    """

    def __init__(self, step):
        super().__init__(name="population_statistics")
        self._step = step
        self._batches_until_warning = 0
        self.built = True  # or Keras would take a batch to build it with
        self.compile()

    def run(self, x, batch_size, steps, verbose):
        """Goes through the data once."""
        may_be_endless = steps is None and inspect.isgenerator(x)
        self._batches_until_warning = _MANY_BATCHES if may_be_endless else 0
        self.evaluate(x, batch_size=batch_size, steps=steps, verbose=verbose)

    def _count(self):
        self._batches_until_warning -= 1
        if self._batches_until_warning == 0:
            warnings.warn(
                f"The generator has given {_MANY_BATCHES} batches and goes on: if it has no end, "
                "give `steps`, the number of batches in a pass.",
                stacklevel=2,
            )

    @property
    def metrics(self):
        """No metrics."""
        return []

    def make_test_function(self, force=False):
        """Makes the step that `evaluate` repeats."""

        def step(*arguments):
            self._count()
            # This model's state, on JAX only; and an iterator, or on PyTorch a list of one batch.
            *state, data = arguments
            batch = data[0] if isinstance(data, list) else next(data)
            self._step(keras.utils.unpack_x_y_sample_weight(batch)[0])
            return ({}, *state) if state else {}

        self.test_function = step


def infer(model, x):
    """Calls a model in inference; a `call` without `training` knows no other mode."""
    if "training" in inspect.signature(model.call).parameters:
        return model(x, training=False)
    return model(x)


class _Passes:
    """Passes over data that find the statistics of a model's layers."""

    def __init__(self, model):
        self.signature = _signature(model)
        self._model: Any = weakref.ref(model)
        self._observer = Observer()
        self._union = Union(model)
        self._batch_functions = {}
        self._observed_layers = None
        self._unseen_names = []
        self._loop = Loop(self._add)

    def update(self, x, batch_size, steps, passes, verbose):
        """Sets the statistics of the model's layers, or leaves them all as they were."""
        # A model that is not built yet has its layers, and old values, from the first batch on.
        self._old_values = None
        if self._model().built:
            self._find_layers()
        try:
            for number in range(passes):
                self._observer.uses_batch = number == 0
                self._loop.run(x, batch_size, steps, verbose)
                self._assign(self._union.result())
        except BaseException:
            for variable, value in self._old_values or ():
                variable.assign(value)
            raise

    def _find_layers(self):
        ours = normalizations(self._model())
        names = ", ".join(f"'{layer.name}'" for layer in _of_keras(self._model()))
        if names:
            warnings.warn(
                f"Layers that are Keras's own BatchNormalization keep their statistics: {names}. "
                f"{_REMEDY}",
                stacklevel=4,
            )
        trainable = [layer for layer in ours if layer.trainable]
        # What is not built now is in no path that inference takes.
        self._observed_layers = [layer for layer in trainable if layer.built]
        self._unseen_names = [f"'{layer.name}'" for layer in trainable if not layer.built]
        self._observer.prepare(self._observed_layers)
        self._old_values = [
            (variable, ops.convert_to_numpy(variable))
            for layer in self._observed_layers
            for variable in layer.statistics
        ]

    def _add(self, x):
        """Adds a batch to the union."""
        model = self._model()
        if self._old_values is None:
            if not model.built:
                with keras.StatelessScope():
                    infer(self._model(), x)
            self._find_layers()
        uses_batch = self._observer.uses_batch
        if uses_batch not in self._batch_functions:
            self._batch_functions[uses_batch] = engines.batch_function(self._moments, model)
        for layer in self._observed_layers:
            layer._observer = self._observer
        try:
            parts = self._batch_functions[uses_batch](x)
        finally:
            for layer in self._observed_layers:
                layer._observer = None
        for part in parts:
            self._union.add(part)

    def _moments(self, x):
        """Returns what a batch adds: the moments of all channels of all layers, side by side.

        One set more counts the batches that are skipped, as its elements.
        """
        self._observer.start()
        infer(self._model(), x)
        parts = self._observer.parts(self._observed_layers)
        part = ops.concatenate([ops.zeros((4, 1)), *parts], axis=1)
        skipped = ops.pad(ops.ones((1, 1)), [(0, 3), (0, part.shape[1] - 1)])
        return ops.where(ops.all(ops.isfinite(part)), part, skipped)

    def _assign(self, part):
        """Gives the layers the statistics that a pass has found."""
        if part is None:
            raise ValueError(
                "Population statistics need at least one batch of data in each pass, "
                "and found none."
            )
        count, shift, residual, variance = ops.convert_to_numpy(part).astype("float64")
        if count[0]:
            warnings.warn(
                f"{count[0]:.0f} batches were left out of the population statistics: NaN or "
                "infinity reached a BatchNormalization layer.",
                stacklevel=5,
            )
        first = 1
        unseen = list(self._unseen_names)
        for layer in self._observed_layers:
            channels = slice(first, first + layer.num_channels)
            first = channels.stop
            if count[channels].all():
                layer.set_statistics((shift + residual)[channels], variance[channels])
            else:
                unseen.append(f"'{layer.name}'")
        if unseen:
            warnings.warn(
                f"Layers that no data reached keep their statistics: {', '.join(unseen)}. If the "
                "model calls them in a `tf.function` or `jax.jit` of its own, the pass cannot see "
                "them there: leave the compilation to Keras.",
                stacklevel=5,
            )


# Compiled steps are kept, as Keras keeps those of `evaluate`, with what they depend on.
_passes = weakref.WeakKeyDictionary()


def _signature(model):
    layers = [layer for layer in layers_of(model) if isinstance(layer, BatchNormalization)]
    optimizer = getattr(model, "optimizer", None)
    return (
        [(weakref.ref(layer), layer.trainable) for layer in layers],
        [id(variable) for variable in model.variables],
        optimizer and weakref.ref(optimizer),
        getattr(model, "_compile_config", None),  # a new object each time
        model.jit_compile,
        model.run_eagerly,
    )
