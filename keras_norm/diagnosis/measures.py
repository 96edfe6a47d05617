"""Statistics of each channel of a layer, and their healthy ranges."""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_norm import layers
from keras_norm.diagnosis.findings import finding
from keras_norm.diagnosis.watching import BatchMoments

# Thresholds of moving statistics. A shift of half a standard deviation changes the sign of one in
# five inputs of a ReLU, and a variance that is wrong by a factor of 2 scales outputs by 1.4. Good
# moving statistics are within 0.1. Two small convolutional networks with such channels classify 81%
# and 88% of digits in evaluation, but 96% and 99% in training; a healthy one classifies 99% in
# both. The sampling error of n samples is added.
_SHIFT = 0.5
_VARIANCE_RATIO = 2.0
# Means of 6 independent values scatter by 0.4 standard deviations. A global average pooling reads
# the mean of a sample, of which a batch of n images has only n independent values, whatever their
# size. On ImageNet, batches of 2, 4 and 8 raise the error of ResNet-50 by 11, 4 and 1 points (Wu
# and He, "Group normalization", 2018). The sampling error of the scatter is added.
_SCATTER = 0.4
_SCATTER_BATCHES = 4
# Means of samples that differ by less than this many standard deviations are the same.
_SAME_MEAN = 1e-3
# The outputs of such a channel are less than a thousandth of a usual channel's.
_TINY_GAMMA = 1e-3
# Means in standard deviations. The first costs 6% of the variance if it is computed in float32 as
# the mean square minus the squared mean; the second costs 0.4% of a standard deviation if the mean
# is stored as one float32.
_LARGE_MEAN_OF_KERAS = 1e3
_LARGE_MEAN = 1e5

_CONVERT = "`model = keras_norm.from_keras(model)`"
_GROUP = (
    "replace batch with group normalization: `model = keras_norm.conversion.replace_normalization("
    "model, keras_norm.conversion.batch_to_group)`"
)


class Measure(NamedTuple):
    """A statistic with one value per channel, healthy between two bounds.

    Attributes:
        kind: The kind of finding for a value out of bounds.
        values: One number for each channel; NaN where all of a channel is padding.
        low: The lower bound.
        high: The upper bound.
    """

    kind: str
    values: Any
    low: float
    high: float

    @property
    def outside(self):
        """Whether the value of each channel is out of bounds."""
        return (self.values < self.low) | (self.values > self.high)

    def of(self, channels):
        """Returns the measure of some channels, with NaN for the others."""
        return self._replace(values=np.where(channels, self.values, np.nan))


def of_weights(layer):
    """Returns the measures by name, and the findings, of a layer's weights alone."""
    weights = {
        name: np.asarray(ops.convert_to_numpy(value), "float64")
        for name in ("gamma", "beta", "scale", "moving_mean", "moving_variance")
        if isinstance(value := getattr(layer, name, None), keras.Variable)
    }
    bad = np.zeros(1, bool)
    for value in weights.values():
        bad = bad | ~np.isfinite(value)
    if bad.any():
        remedy = (
            "The value is NaN or infinite: lower the learning rate or clip gradients, then retrain."
        )
        return {}, finding(layer, "gamma", bad, np.where(bad, np.nan, 0), remedy)
    gamma = weights.get("gamma", weights.get("scale"))
    if gamma is None:
        return {}, []
    factor = Measure(
        "gamma", np.abs(gamma + getattr(layer, "gamma_offset", 0.0)).ravel(), _TINY_GAMMA, np.inf
    )
    remedy = (
        "|gamma| is near 0, so the channel is dead: prune it, or exclude gamma from weight decay "
        "(`keras_norm.exclude_norms_and_biases`)."
    )
    return {"gamma": factor}, finding(layer, "gamma", factor.outside, -factor.values, remedy)


def of_batches(layer, uses, pooled, broken):
    """Returns the measures by name, and the findings, of a batch normalization layer's inputs.

    Args:
        layer: The layer.
        uses: For each use of the layer in the model, the list of `BatchMoments` of all batches.
        pooled: Whether a global average pooling follows.
        broken: The path of a weight of the model that is not finite; None if there is none.
    """
    parts = [_union(batches) for batches in uses]
    data = _union(parts)
    overflow = ~np.isfinite(data.mean) | ~np.isfinite(data.variance)
    if overflow.any():
        kind, remedy = _overflow(layer, broken)
        return {}, finding(layer, kind, overflow, np.where(overflow, np.inf, 0), remedy)
    deviation = np.sqrt(data.variance + layer.epsilon)
    measures = _statistics(layer, data) | {
        "variance": Measure("constant", data.variance / layer.epsilon, 1.0, np.inf),
        "mean": _mean(layer, data, deviation),
    }
    takes_batch = layer.trainable and not getattr(layer, "renorm", False)
    # Each use has its own mean.
    freedom = sum(map(len, uses)) - len(uses)
    if takes_batch and freedom >= _SCATTER_BATCHES - 1:
        read = np.hypot(np.sqrt(data.between), _SAME_MEAN * deviation) if pooled else deviation
        scatter = _scatter(uses, freedom) / read
        bound = _SCATTER * (1 + 1 / np.sqrt(2 * freedom))
        measures["scatter"] = Measure("batch", scatter, 0.0, bound)
    measures = {name: measure.of(data.count > 0) for name, measure in measures.items()}
    found = (takes_batch and _uses(layer, parts, data)) or _moving(layer, measures)
    found += _findings(layer, measures, data, pooled)
    return measures, [*found, *_dtypes(layer, data.variance)]


def _overflow(layer, broken):
    """Returns kind and remedy for a layer whose inputs contain NaN or infinity."""
    if broken is not None:
        return "gamma", (
            f"The inputs contain NaN or infinity, as the weight '{broken}' is not finite: lower "
            "the learning rate or clip gradients, then retrain."
        )
    return "float16", (
        f"Inputs of the layer overflow in {layer.compute_dtype}: normalize or scale them "
        "earlier, or use float32 or bfloat16 for the layers before."
    )


def _union(moments):
    """Returns the union of a list of `BatchMoments`."""
    parts = BatchMoments(*map(np.array, zip(*moments, strict=True)))
    count = parts.count.sum(0)
    divisor = np.maximum(count, 1)  # all of a channel may be padding
    mean = (parts.count * parts.mean).sum(0) / divisor
    variance, between = (
        (parts.count * (spread + (parts.mean - mean) ** 2)).sum(0) / divisor
        for spread in (parts.variance, parts.between)
    )
    return BatchMoments(count, mean, variance, between)


def _scatter(uses, freedom):
    """Returns the standard deviation of the means of batches of the median size.

    Smaller batches, such as the last one, scatter more, so batches are weighted by their size.
    """
    squares = 0
    for batches in uses:
        mean = _union(batches).mean
        squares += sum(batch.count * (batch.mean - mean) ** 2 for batch in batches)
    size = np.median([batch.count for batches in uses for batch in batches], 0)
    return np.sqrt(squares / freedom / np.maximum(size, 1))


def _statistics(layer, data):
    mean, variance = (
        np.asarray(ops.convert_to_numpy(v), "float64")
        for v in (layer.moving_mean, layer.moving_variance)
    )
    if not np.isfinite([mean, variance]).all():
        return {}
    shift, ratio = _differences(layer, mean, variance, data, data.count)
    return {"moving_mean": shift, "moving_variance": ratio}


def _differences(layer, mean, variance, data, count):
    """Returns measures of the difference between statistics and the moments of the data.

    Args:
        layer: The layer.
        mean: Array, the mean in inference, or of one use.
        variance: Array, the same for the variance.
        data: `BatchMoments` of all data.
        count: Array, the number of values that the difference is estimated from.
    """
    noise = 3 / np.sqrt(count[count > 0].min())
    squared_deviation = data.variance + layer.epsilon
    shift = (mean - data.mean) / np.sqrt(squared_deviation)
    ratio = np.maximum(variance + layer.epsilon, 1e-38) / squared_deviation
    shift_bound = _SHIFT + noise
    ratio_bound = _VARIANCE_RATIO * np.exp(noise)
    return (
        Measure("statistics", shift, -shift_bound, shift_bound).of(count > 0),
        Measure("statistics", ratio, 1 / ratio_bound, ratio_bound).of(count > 0),
    )


def _distance(shift, ratio):
    """Returns the difference of statistics in units of the tolerance."""
    return np.maximum(
        np.abs(shift.values) / _SHIFT, np.abs(np.log(ratio.values)) / np.log(_VARIANCE_RATIO)
    )


def _mean(layer, data, deviation):
    bound = _LARGE_MEAN if _is_ours(layer) else _LARGE_MEAN_OF_KERAS
    return Measure("mean", np.abs(data.mean) / deviation, 0.0, bound)


def _uses(layer, parts, data):
    """Returns the findings for uses of a layer whose moments differ."""
    differences = [
        _differences(layer, part.mean, part.variance, data, part.count) for part in parts
    ]
    outside = np.any([shift.outside | ratio.outside for shift, ratio in differences], 0)
    distance = np.fmax.reduce([_distance(*difference) for difference in differences])
    remedy = (
        f"The inputs of the layer's {len(parts)} uses differ by this many times the tolerance, so "
        f"that no moving statistics fit all of them: create a layer for each use, or {_GROUP}."
    )
    return finding(layer, "statistics", outside, distance, remedy)


def _moving(layer, measures):
    """Returns the findings for moving statistics that do not fit the data."""
    if "moving_mean" not in measures:
        return []
    shift, ratio = measures["moving_mean"], measures["moving_variance"]
    remedy = (
        "Moving statistics differ from the data's by this many times the tolerance: "
        f"{_new_statistics(layer)}."
    )
    outside = shift.outside | ratio.outside
    return finding(layer, "statistics", outside, _distance(shift, ratio), remedy)


def _findings(layer, measures, data, pooled):
    """Returns the findings for other values out of bounds."""
    found = []
    scatter = measures.get("scatter")
    if scatter is not None and np.nanmedian(scatter.values) > scatter.high:
        unit = "standard deviations" + (" of the means of samples, which are pooled" * pooled)
        remedy = (
            f"Means of batches scatter by this many {unit}: shuffle the data, use larger batches, "
            f"`synchronized=True` or `renorm=True`, or {_GROUP}."
        )
        found += finding(layer, "batch", scatter.outside, scatter.values, remedy)
    remedy = (
        f"The variance is below epsilon, {layer.epsilon:g}, which then dominates the output: "
        "scale or remove the channel, or lower epsilon."
    )
    found += finding(layer, "constant", measures["variance"].outside, -data.variance, remedy)
    mean = measures["mean"]
    remedy = (
        "The mean is this many standard deviations from zero, where float32 loses digits: subtract "
        "a constant from the inputs first"
        f"{'' if _is_ours(layer) else f', or convert the layer: {_CONVERT}'}."
    )
    return [*found, *finding(layer, "mean", mean.outside, mean.values, remedy)]


def _new_statistics(layer):
    """Returns the remedy for moving statistics that do not fit the data."""
    calls = "`keras_norm.update_population_statistics(model, x)`"
    if not _is_ours(layer):
        calls = f"{_CONVERT}, then {calls}"
    if layer.trainable:
        return calls
    return (
        "the layer is frozen, so preprocess the data as in its training; or set `trainable = True` "
        f"on the layer, then {calls}"
    )


def _is_ours(layer):
    return isinstance(layer, layers.BatchNormalization)


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
        *finding(layer, "epsilon", vanishes, vanishes * layer.epsilon,
                 f"epsilon is 0 in float16, so that a variance of 0 divides by 0: {keep}"),
        *finding(layer, "float16", is_lost, variance,
                 f"float16 cannot represent the variance: {keep}"),
    ]  # fmt: skip
