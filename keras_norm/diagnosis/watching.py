"""A pass over data that records each call of a model's layers."""

import collections
import contextlib
import functools
import inspect
import threading
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_norm import engines, population
from keras_norm._contents import contents, layers_of
from keras_norm.diagnosis.causality import Causality
from keras_norm.diagnosis.masks import Padding, Trail
from keras_norm.diagnosis.sets import channel_axis, family, is_batch
from keras_norm.ops import Moments, mask_weights, merge_replicas

_POOLING = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)


class BatchMoments(NamedTuple):
    """The moments of a layer's input in one use, one number for each channel.

    Attributes:
        count: Number of valid positions of all samples.
        mean: Mean over the positions.
        variance: Variance over the positions.
        between: Variance of the samples' means.
    """

    count: Any
    mean: Any
    variance: Any
    between: Any


class Watch:
    """A pass over data, and its records.

    The model runs without compilation, so that values, masks and shapes are available.

    Attributes:
        layers: The normalization layers of the model, after `run` in the order of their calls.
        batches: By the ids of batch normalization layers, a list for each use of the layer in the
            model, of the `BatchMoments` of all batches.
        pooled: Ids of the normalization layers before a global average pooling.
        padding: `Padding` by the ids of layers.
        causality: `Causality`.
    """

    def __init__(self, model):
        self.layers = []
        self.batches = {}
        self.pooled = set()
        self.padding = {}
        self._model = model
        self._operations = None
        self._number = 0
        # `tf.distribute` runs replicas in separate threads, one at a time.
        self._local = threading.local()

    def run(self, x, batch_size, steps, verbose):
        """Runs the model on the data once."""
        if self._model.built:
            self._find_layers()
        population.Loop(self._look).run(x, batch_size, steps, verbose)
        if not self._number:
            raise ValueError("A diagnosis needs at least one batch of data. Received: none")
        unseen = [layer for layer in self.layers if id(layer) not in self._called]
        self.layers = [*self._called.values(), *unseen]
        unseen += self._unbuilt
        if unseen:
            names = ", ".join(f"'{layer.name}'" for layer in unseen)
            warnings.warn(
                "No data reached these layers, so only their weights, if they have any, are "
                f"diagnosed: {names}. "
                "The pass cannot see layers that the model calls in its own `tf.function` or "
                "`jax.jit`: leave the compilation to Keras.",
                stacklevel=3,
            )

    def _find_layers(self):
        found = [layer for layer in layers_of(self._model) if family(layer) is not None]
        if not found:
            raise ValueError(
                "A diagnosis needs a model with at least one normalization layer of keras_norm or "
                f"Keras. Received: model '{self._model.name}'"
            )
        # Inference does not reach the layers that are not built now.
        self.layers = [layer for layer in found if layer.built]
        self._unbuilt = [layer for layer in found if not layer.built]
        self.batches = {id(layer): [] for layer in self.layers if is_batch(layer)}
        self.padding = {id(layer): Padding() for layer in self.layers}
        self._called = {}
        self._operations = [x for x in contents(self._model) if isinstance(x, keras.Operation)]
        self.causality = Causality(self._operations)

    def _look(self, x):
        self._number += 1
        infer = engines.on_replicas(self._infer, self._model)
        if self._operations is None:
            infer(x)
            self._find_layers()
        with contextlib.ExitStack() as stack:
            for operation in self._operations:
                stack.enter_context(_replaced(operation, "call", self._watching(operation)))
                # Recomputation is for gradients, and hides layers from the pass on JAX.
                stack.enter_context(_replaced(operation, "rematerialized_call", _unchanged))
            infer(x)

    def _infer(self, x):
        check_finite(x, self._number)
        self._local.trail = Trail()
        self._local.trace = engines.trace()
        self._local.uses = collections.Counter()
        with keras.StatelessScope():
            population.infer(self._model, x)

    def _watching(self, operation):
        """Returns a `call` that records inputs and outputs."""
        call = operation.call
        signature = inspect.signature(call)
        takes_mask = "mask" in signature.parameters

        @functools.wraps(call)
        def watching(*args, **kwargs):
            if engines.nesting(self._local.trace) != "none":
                if id(operation) in self.batches:
                    raise population.not_visible(operation)
                return call(*args, **kwargs)
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            origins = self._record(operation, takes_mask, given.arguments)
            if id(operation) in self.batches:
                # A frozen layer still runs in inference.
                given.arguments["training"] = True
            outputs = call(*given.args, **given.kwargs)
            self._local.trail.record(operation, takes_mask, origins, outputs)
            if operation is self._model:
                self.causality.record_outputs(outputs)
            return outputs

        return watching

    def _record(self, operation, takes_mask, arguments):
        """Records the inputs of a call, and returns where they come from."""
        # A list, as `flatten` would sort a dictionary by its keys.
        values = [value for name, value in arguments.items() if "mask" not in name]
        inputs = [x for x in keras.tree.flatten(values) if ops.is_tensor(x)]
        origins = [self._local.trail.origin(x) for x in inputs]
        if inputs and len(inputs[0].shape) > 1:
            self.causality.record(operation, inputs[0], arguments)
        if isinstance(operation, _POOLING):
            self.pooled |= self._called.keys()
        if id(operation) in self.padding:
            self._called.setdefault(id(operation), operation)
            mask = arguments.get("mask")
            self.padding[id(operation)].record(operation, takes_mask, inputs[0], mask, origins[0])
            if id(operation) in self.batches:
                self._see_batch(operation, inputs[0], mask)
        return origins

    def _see_batch(self, layer, inputs, mask):
        found = _moments(layer, inputs, mask)
        total = engines.total() if getattr(layer, "synchronized", False) else None
        if total is not None:
            found = _global(found, total)
        uses, use = self.batches[id(layer)], self._local.uses[id(layer)]
        self._local.uses[id(layer)] += 1
        if use == len(uses):
            uses.append([])
        if found.count.any():
            uses[use].append(found)


@contextlib.contextmanager
def _replaced(operation, name, method):
    """Replaces a method of one object; a function that the user has set there is put back."""
    attributes = vars(operation)
    before = attributes.get(name)
    attributes[name] = method
    try:
        yield
    finally:
        del attributes[name]
        if before is not None:
            attributes[name] = before


def _unchanged(layer_call, *args, **kwargs):
    return layer_call


def check_finite(x, number):
    """Checks a batch of data.

    Raises:
        ValueError: If it contains NaN or infinity.
    """
    if not all(map(is_finite, keras.tree.flatten(x))):
        raise ValueError(f"Batch {number} of the data contains NaN or infinity.")


def is_finite(array):
    """Returns whether an array contains neither NaN nor infinity; texts and objects do not."""
    values = np.asarray(ops.convert_to_numpy(array))
    return values.dtype.kind in "OSU" or bool(np.isfinite(values.astype("float64")).all())


def _moments(layer, inputs, mask):
    """Returns the `BatchMoments` of a layer's inputs."""
    x = np.asarray(ops.convert_to_numpy(inputs), "float64")
    axis = channel_axis(layer, x.ndim)
    valid = np.ones((1,) * x.ndim, bool)
    if mask is not None:
        # The mask has one value for all channels, or one for each.
        valid = np.asarray(ops.convert_to_numpy(mask_weights(mask, x.shape, axis))) > 0
    valid = np.moveaxis(np.broadcast_to(valid, x.shape), axis, -1)
    x = np.moveaxis(x, axis, -1)
    positions = tuple(range(1, x.ndim - 1))
    counts = valid.sum(positions)
    count = counts.sum(0).astype("float64")
    at_least_1 = np.maximum(count, 1)
    x = np.where(valid, x, 0)
    with np.errstate(invalid="ignore"):  # infinity is a finding
        mean = x.sum((0, *positions)) / at_least_1
        distance = np.where(valid, x - mean, 0)
        means = distance.sum(positions) / np.maximum(counts, 1)
        variance = (distance**2).sum((0, *positions)) / at_least_1
        return BatchMoments(count, mean, variance, (counts * means**2).sum(0) / at_least_1)


def _global(local, total):
    """Returns the moments of the batches of all replicas."""
    # Two sets for each channel, as the variance of the samples' means is merged like the variance.
    mean = np.tile(local.mean, 2)
    shift = mean.astype("float32")
    spread = np.concatenate([local.variance, local.between])
    fields = (local.count[:1], shift, mean - shift, spread)
    tensors = [ops.convert_to_tensor(field.astype("float32")) for field in fields]
    found = merge_replicas(Moments(*tensors), total)
    count, shift, residual, spread = (
        np.asarray(ops.convert_to_numpy(field), "float64") for field in found
    )
    mean, _ = np.split(shift + residual, 2)
    return BatchMoments(count + 0 * mean, mean, *np.split(spread, 2))
