"""Passes over data that compute the statistics of a model's layers."""

import math
import warnings
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_norm import engines
from keras_norm._contents import layers_of
from keras_norm.layers import BatchNormalization
from keras_norm.population.loop import Loop, infer
from keras_norm.population.observer import Observer
from keras_norm.population.targets import REMEDY, normalizations, of_keras
from keras_norm.population.union import Union

# A process without data, or with an error, sends these instead of moments, which are finite.
_NO_DATA, _FAILED = math.inf, math.nan


class Passes:
    """Passes over data that compute the statistics of a model's layers."""

    def __init__(self, model):
        self.signature = signature(model)
        self._model: Any = weakref.ref(model)
        self._observer = Observer()
        self._union = Union(model)
        self._batch_functions = {}
        self._observed_layers: Any = None
        self._unseen_names = []
        self._loop = Loop(self._add)
        # Whether Python runs functions that the model compiles itself; None before the first batch.
        self._is_inlined: Any = None

    def update(self, x, batch_size, steps, passes, verbose, merge_replicas):
        """Sets the statistics of the model's layers, or leaves all of them unchanged."""
        self._observer.merges_replicas = merge_replicas
        run = self._merged if merge_replicas else self._run
        # The layers of a model that is not built yet are found at the first batch.
        self._old_values = None
        if self._model().built:
            self._find_layers()
        try:
            for number in range(passes):
                self._observer.uses_batch = number == 0
                self._assign(run(x, batch_size, steps, verbose))
        except BaseException:
            for variable, value in self._old_values or ():
                variable.assign(value)
            raise

    def _run(self, *data):
        """Returns the moments of the data, of all layers; None if there is no data."""
        self._loop.run(*data)
        return self._union.result()

    def _merged(self, *data):
        """Returns the moments of the data of all processes, or raises an error in all of them."""
        failure, sent = None, None
        try:
            sent = self._run(*data)
        except Exception as error:
            failure = error
        if sent is None:
            sets = 1 + sum(layer.num_channels for layer in self._observed_layers)
            sent = ops.full((4, sets), _NO_DATA if failure is None else _FAILED)
        parts = engines.gathered(lambda: sent, self._model())
        if failure is not None:
            raise failure
        failed = [rank for rank, part in enumerate(parts) if np.isnan(part).any()]
        if failed:
            raise RuntimeError(
                "Population statistics are unchanged, as the pass failed in the processes of ranks "
                f"{failed}"
            )
        for part in parts:
            if np.isfinite(part).all():
                self._union.add(ops.convert_to_tensor(part))
        return self._union.result()

    def _find_layers(self):
        ours = normalizations(self._model())
        names = ", ".join(f"'{layer.name}'" for layer in of_keras(self._model()))
        if names:
            warnings.warn(
                f"Keras's own BatchNormalization layers keep their statistics: {names}. {REMEDY}",
                stacklevel=4,
            )
        trainable = [layer for layer in ours if layer.trainable]
        # Inference does not reach the layers that are not built now.
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
        for layer in self._observed_layers:
            layer._observer = self._observer
        try:
            parts = self._parts(x)
        finally:
            for layer in self._observed_layers:
                layer._observer = None
        for part in parts:
            self._union.add(part)

    def _parts(self, x):
        """Returns the moments of a batch, from each replica."""
        key = self._observer.uses_batch, self._observer.merges_replicas
        if key not in self._batch_functions:
            self._batch_functions[key] = engines.batch_function(self._moments, self._model())
        function = self._batch_functions[key]
        if not self._is_inlined:
            try:
                parts = function(x)
            except RuntimeError:
                if not self._observer.is_blocked:
                    raise
            else:
                unseen = len(self._observer.unseen)
                if self._is_inlined is False or not unseen:
                    return parts
        with engines.inlined():
            parts = function(x)
        if self._is_inlined is None:
            # A function that was compiled before the pass reports nothing.
            self._is_inlined = self._observer.is_blocked or len(self._observer.unseen) < unseen
        return parts

    def _moments(self, x):
        """Returns the moments of a batch: of all channels of all layers, concatenated.

        The first set counts the skipped batches.
        """
        self._observer.start()
        infer(self._model(), x)
        parts = self._observer.parts(self._observed_layers)
        part = ops.concatenate([ops.zeros((4, 1)), *parts], axis=1)
        skipped = ops.pad(ops.ones((1, 1)), [(0, 3), (0, part.shape[1] - 1)])
        return ops.where(ops.all(ops.isfinite(part)), part, skipped)

    def _assign(self, part):
        """Sets the statistics of the layers to the result of a pass."""
        if part is None:
            raise ValueError(
                "Population statistics need at least one batch of data in each pass. Received: none"
            )
        count, shift, residual, variance = ops.convert_to_numpy(part).astype("float64")
        if count[0]:
            warnings.warn(
                f"{count[0]:.0f} batches were left out of the population statistics: NaN or "
                "infinity reached a BatchNormalization layer.",
                stacklevel=4,
            )
        first = 1
        unseen = list(self._unseen_names)
        for layer in self._observed_layers:
            channels = slice(first, first + layer.num_channels)
            first = channels.stop
            has_data = count[channels] > 0
            if has_data.any():
                # A channel that is all padding keeps its statistics.
                new = (shift + residual)[channels], variance[channels]
                old = map(ops.convert_to_numpy, (layer.moving_mean, layer.moving_variance))
                layer.set_statistics(
                    *(np.where(has_data, n, o) for n, o in zip(new, old, strict=True))
                )
            else:
                unseen.append(f"'{layer.name}'")
        if unseen:
            warnings.warn(
                f"Layers that no data reached keep their statistics: {', '.join(unseen)}. The pass "
                "cannot see layers that the model calls in its own `tf.function` or `jax.jit`: "
                "leave the compilation to Keras.",
                stacklevel=4,
            )


def signature(model):
    """Returns everything that the compiled steps of a model's passes depend on."""
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
