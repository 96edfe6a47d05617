"""Diagnosis: what is wrong with the normalization of a model.

The layers' inputs are observed in one pass over data, and their moments compared with what the
layers hold and with what their numbers can hold.
"""

import dataclasses
import html
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_norm import engines, layers, population
from keras_norm._contents import layers_of

# Thresholds, and why. Half a deviation turns the sign of one in five values that a ReLU gets, and
# a variance that is off by a factor of 2 scales outputs by 1.4; good moving statistics are within
# 0.1. What n samples cannot tell apart is added.
_SHIFT = 0.5
_VARIANCE_RATIO = 2.0
# Batch means that scatter by 0.4 deviations are those of 6 independent values a batch.
_SCATTER = 0.4
_SCATTER_BATCHES = 4
# Outputs of such a channel are less than a thousandth of a usual channel's.
_TINY_GAMMA = 1e-3
# The means, in deviations, that cost 6% of the variance where it is found as the mean square less
# the squared mean in float32; and 0.4% of a deviation where the mean is one float32.
_LARGE_MEAN_OF_KERAS = 1e3
_LARGE_MEAN = 1e5

_BATCH = (layers.BatchNormalization, keras.layers.BatchNormalization)
_NORMALIZATIONS = (
    *_BATCH,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One fault of one layer.

    Attributes:
        layer: The layer.
        name: The layer's name.
        kind: "statistics", "gamma", "constant", "mean", "batch", "epsilon" or "float16".
        channels: Indices of the channels concerned.
        value: The worst channel's number, in the units that the remedy names.
        remedy: One sentence.
    """

    layer: Any
    name: str
    kind: str
    channels: list
    value: float
    remedy: str


class Report:
    """The findings of a diagnosis, shown as a table.

    Attributes:
        findings: List of `Finding`, empty for a healthy model.
    """

    _HEADER = ("layer", "kind", "channels", "value", "remedy")

    def __init__(self, findings):
        self.findings = findings

    def __str__(self):
        if not self.findings:
            return "No findings."
        rows = [self._HEADER, *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows)

    def _repr_html_(self):
        if not self.findings:
            return "<p>No findings.</p>"
        rows = [_row("th", self._HEADER), *(_row("td", row) for row in self._rows())]
        return f"<table>{''.join(rows)}</table>"

    def _rows(self):
        return [
            (f.name, f.kind, str(len(f.channels)), f"{f.value:.3g}", f.remedy)
            for f in self.findings
        ]


def _row(tag, texts):
    return f"<tr>{''.join(f'<{tag}>{html.escape(text)}</{tag}>' for text in texts)}</tr>"


def diagnose(model, x, batch_size=None, steps=None, verbose="auto"):
    """Finds what is wrong with the normalization layers of a model.

    In one pass over the data, batch normalization standardizes with each batch's moments, as in
    training, and everything else runs in inference. The model stays as it is. For each layer of
    keras_norm or Keras the report says what is wrong, in which channels, and what helps:

    - `statistics`: The moving mean is more than 0.5 deviations from the data's, or the moving
      variance is off by more than a factor of 2.
    - `batch`: Means of batches scatter by more than 0.4 deviations.
    - `gamma`: gamma is below 0.001, or a weight is NaN or infinite.
    - `constant`: The variance is below epsilon.
    - `mean`: The mean is so many deviations from zero that a single float32 loses digits.
    - `epsilon`: epsilon is 0 in the dtype that the layer keeps its variance in.
    - `float16`: float16 cannot hold the variance, or the inputs overflow.

    `gamma` is looked for in batch, group, layer and RMS normalization, the others in batch
    normalization. The pass runs without compilation, so a part of the data is enough.

    Args:
        model: Keras model.
        x: The data, as `update_population_statistics` takes it.
        batch_size: Positive integer, samples per batch of arrays, as in training; None for 32.
        steps: Positive integer, number of batches; None for all.
        verbose: "auto", 0, 1 or 2, as in `evaluate`.

    Returns:
        A report. `findings` lists the findings, each with `layer`, `name`, `kind`, `channels`,
        `value` and `remedy`; `str` and notebooks show a table.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no normalization layer, a number is not a positive integer,
            there is no data, or a batch holds NaN or infinity.
        RuntimeError: If a layer is called where the pass cannot see it.

    Example:
    >>> import keras, keras_norm
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras_norm.BatchNormalization()])
    >>> x = np.random.default_rng(0).normal(100, 1, (64, 1)).astype("float32")
    >>> [finding.kind for finding in keras_norm.diagnose(model, x, verbose=0).findings]
    ['statistics']

    Reference:
        Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576
    """
    population.check(x, batch_size, steps, passes=1)
    if not isinstance(model, keras.Model):
        raise TypeError(f"Argument `model` must be a Keras model. Received: {model!r}")
    with engines.scope(model):
        observed = _Pass(model)
        observed.run(x, batch_size, steps, verbose)
    findings = []
    for layer in observed.layers:
        findings += _of_weights(layer)
        if observed.seen[id(layer)]:
            findings += _of_data(layer, *map(np.array, zip(*observed.seen[id(layer)], strict=True)))
    return Report(findings)


class _Pass:
    """A pass over data that collects the moments of each batch."""

    def __init__(self, model):
        self.layers = []
        self.seen = {}
        self._model = model
        self._number = 0

    def run(self, x, batch_size, steps, verbose):
        if self._model.built:
            self._find_layers()
        population.Loop(self._look).run(x, batch_size, steps, verbose)
        if not self._number:
            raise ValueError("A diagnosis needs at least one batch of data, and found none.")

    def _find_layers(self):
        self.layers = [layer for layer in layers_of(self._model) if _is_normalization(layer)]
        if not self.layers:
            raise ValueError(
                "A diagnosis needs a model with at least one normalization layer of keras_norm or "
                f"Keras. Received: model '{self._model.name}'"
            )
        self.seen = {id(layer): [] for layer in self.layers}

    def _look(self, x):
        self._number += 1
        for array in keras.tree.flatten(x):
            if not np.isfinite(np.asarray(ops.convert_to_numpy(array), "float64")).all():
                raise ValueError(f"Batch {self._number} of the data holds NaN or infinity.")
        if not self.layers:
            with keras.StatelessScope():
                population.infer(self._model, x)
            self._find_layers()
        batch = [layer for layer in self.layers if isinstance(layer, _BATCH)]
        trace = engines.trace()
        for layer in batch:
            layer.__dict__["call"] = self._observing(layer, layer.call, trace)
        try:
            with keras.StatelessScope():
                population.infer(self._model, x)
        finally:
            for layer in batch:
                del layer.__dict__["call"]

    def _observing(self, layer, call, trace):
        """Returns a `call` that takes the moments of the inputs first."""

        def observing(inputs, training=None, mask=None):
            if engines.nesting(trace) != "none":
                raise population.not_visible(layer)
            found = _moments(layer, inputs, mask)
            if found is not None:
                self.seen[id(layer)].append(found)
            return call(inputs, training=bool(layer.trainable), mask=mask)

        return observing


def _is_normalization(layer):
    return isinstance(layer, _NORMALIZATIONS) and layer.built


def _moments(layer, inputs, mask):
    """Returns the count, mean and variance of each channel; None of what holds nothing."""
    x = np.moveaxis(np.asarray(ops.convert_to_numpy(inputs), "float64"), layer.axis, -1)
    if mask is None:
        x = x.reshape(-1, x.shape[-1])
    else:
        held = np.asarray(ops.convert_to_numpy(mask)) > 0
        held = held.reshape(held.shape + (1,) * (x.ndim - 1 - held.ndim))
        x = x[np.broadcast_to(held, x.shape[:-1])]
    if not len(x):
        return None
    return np.full(x.shape[-1], float(len(x))), x.mean(0), x.var(0)


def _of_weights(layer):
    """Returns what a layer's weights alone show."""
    weights = {
        name: np.asarray(ops.convert_to_numpy(value), "float64")
        for name in ("gamma", "beta", "scale", "moving_mean", "moving_variance")
        if isinstance(value := getattr(layer, name, None), keras.Variable)
    }
    bad = np.zeros(1, bool)
    for value in weights.values():
        bad = bad | ~np.isfinite(value)
    remedy = (
        "The value is NaN or infinite: lower the learning rate or clip gradients, then retrain."
    )
    if bad.any():
        return _finding(layer, "gamma", bad, np.where(bad, np.nan, 0), remedy)
    gamma = weights.get("gamma", weights.get("scale"))
    if gamma is None:
        return []
    remedy = (
        "|gamma| is near 0, so the channel is dead: prune it, or exclude gamma from weight decay "
        "(`keras_norm.exclude_norms_and_biases`)."
    )
    return _finding(layer, "gamma", np.abs(gamma) < _TINY_GAMMA, -np.abs(gamma), remedy)


def _of_data(layer, counts, means, variances):
    """Returns what a batch normalization layer's inputs show, given its batches' moments."""
    overflow = ~np.isfinite(means).all(0) | ~np.isfinite(variances).all(0)
    if overflow.any():
        return _finding(
            layer,
            "float16",
            overflow,
            np.where(overflow, np.inf, 0),
            f"Inputs of the layer overflow in {layer.compute_dtype}: normalize or scale them "
            "earlier, or take float32 or bfloat16 for the layers before.",
        )
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
    deviation = np.sqrt(variance + layer.epsilon)
    return [
        *_statistics(layer, count, mean, variance, deviation),
        *_batch(layer, means, deviation),
        *_finding(
            layer,
            "constant",
            variance < layer.epsilon,
            -variance,
            "The variance is below epsilon, which then decides the output: scale or remove the "
            "channel, or lower epsilon.",
        ),
        *_mean(layer, mean, deviation),
        *_dtypes(layer, variance),
    ]


def _statistics(layer, count, mean, variance, deviation):
    moving = [
        np.asarray(ops.convert_to_numpy(v), "float64")
        for v in (layer.moving_mean, layer.moving_variance)
    ]
    if not np.isfinite(moving).all():
        return []
    noise = 3 / np.sqrt(count)
    shift = np.abs(moving[0] - mean) / deviation
    ratio = np.abs(np.log(np.maximum(moving[1] + layer.epsilon, 1e-38) / deviation**2))
    distance = np.maximum(shift / _SHIFT, ratio / np.log(_VARIANCE_RATIO))
    return _finding(
        layer,
        "statistics",
        (shift > _SHIFT + noise) | (ratio > np.log(_VARIANCE_RATIO) + noise),
        distance,
        "Moving statistics are this many times the tolerance from the data's: call "
        "`keras_norm.update_population_statistics(model, x)`, after "
        "`keras_norm.from_keras(model)` for Keras's layers.",
    )


def _batch(layer, means, deviation):
    takes_batch = layer.trainable and not getattr(layer, "renorm", False)
    if len(means) < _SCATTER_BATCHES or not takes_batch:
        return []
    scatter = means.std(0, ddof=1) / deviation
    noisy = scatter > _SCATTER
    if np.median(scatter) <= _SCATTER:
        return []
    return _finding(
        layer,
        "batch",
        noisy,
        scatter,
        "Means of batches scatter by this many deviations: shuffle, take larger batches, "
        "`synchronized=True` or `renorm=True`, or replace the layer with "
        "`keras_norm.GroupNormalization`.",
    )


def _mean(layer, mean, deviation):
    is_ours = isinstance(layer, layers.BatchNormalization)
    distance = np.abs(mean) / deviation
    return _finding(
        layer,
        "mean",
        distance > (_LARGE_MEAN if is_ours else _LARGE_MEAN_OF_KERAS),
        distance,
        "The mean is this many deviations from zero, where float32 loses digits: subtract a "
        "constant from the inputs first"
        + ("." if is_ours else ", or convert the model with `keras_norm.from_keras`."),
    )


def _dtypes(layer, variance):
    if keras.backend.standardize_dtype(layer.moving_variance.dtype) != "float16":
        return []
    range_ = np.finfo("float16")
    is_lost = (variance > range_.max) | (
        (variance > 0) & (variance < range_.smallest_subnormal) & (variance > layer.epsilon)
    )
    keep = "keep the variance in float32: `dtype='mixed_float16'`, or `keras_norm.from_keras`."
    vanishes = np.full(variance.shape, float(np.float16(layer.epsilon)) == 0)
    return [
        *_finding(layer, "epsilon", vanishes, vanishes * layer.epsilon,
                  f"epsilon is 0 in float16, and a small variance divides by 0: {keep}"),
        *_finding(layer, "float16", is_lost, variance,
                  f"float16 cannot hold the variance: {keep}"),
    ]  # fmt: skip


def _finding(layer, kind, where, badness, remedy):
    """Returns a list of one finding, or of none.

    Args:
        layer: The layer.
        kind: The kind.
        where: Booleans, which channels are concerned.
        badness: Numbers for all channels, the largest for the worst; the finding's value is its
            magnitude.
        remedy: One sentence.
    """
    channels = np.flatnonzero(where)
    if not len(channels):
        return []
    worst = np.broadcast_to(badness, np.shape(where)).ravel()[channels]
    value = float(np.abs(worst[np.argmax(worst)]))
    return [Finding(layer, layer.name, kind, channels.tolist(), value, remedy)]
