"""The function that finds faults in the normalization of a model."""

import keras
import numpy as np

from keras_norm import _validation, engines, population
from keras_norm.diagnosis import measures
from keras_norm.diagnosis.report import Examined, Report
from keras_norm.diagnosis.watching import Watch, check_finite, is_finite


def diagnose(model, x, batch_size=None, steps=None, verbose="auto"):
    """Finds faults in the normalization layers of a model.

    In one pass over the data, batch normalization standardizes with each batch's moments, as in
    training, and everything else runs in inference. The model does not change. For each
    normalization layer of keras_norm or Keras, the report lists faults, their channels and a
    remedy:

    - `statistics`: The moving mean differs from the data's mean by more than 0.5 standard
      deviations, or the moving variance is wrong by more than a factor of 2; or several uses of
      the layer differ that much.
    - `batch`: The means of batches scatter by more than 0.4 standard deviations; before a global
      average pooling, of the means of single samples.
    - `gamma`: gamma is below 0.001, or a weight is NaN or infinite.
    - `constant`: The variance is below epsilon.
    - `mean`: The mean is so many standard deviations from zero that a float32 loses digits.
    - `mask`: Padding is counted, because the mask was lost or the layer does not support masks.
    - `time`: Layer normalization mixes time steps, and the model has causal layers and outputs at
      each step.
    - `epsilon`: epsilon is 0 in the dtype of the layer's moving variance.
    - `float16`: float16 cannot represent the variance, or the inputs overflow.

    Batch, group, layer and RMS normalization are checked for `gamma` and `mask`, layer and RMS
    normalization for `time`, and batch normalization for the others. The pass is not compiled: use
    a part of the data.

    Under `tf.distribute`, each replica normalizes its part of a batch. Under `torch.distributed`,
    each process reports about its own data.

    Args:
        model: Keras model.
        x: The data, as `update_population_statistics` takes it. Arrays are shuffled, as in `fit`.
        batch_size: Positive integer, samples per batch of arrays, as in training; None for 32.
        steps: Positive integer, number of batches; None for all.
        verbose: "auto", 0, 1 or 2, as in `evaluate`.

    Returns:
        A report. `findings` lists the findings, each with `layer`, `name`, `kind`, `channels`,
        `num_channels`, `value` and `remedy`; `str` and notebooks show a table; `plot(path)` draws
        all layers. Layers are in the order of their calls.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no normalization layer, a number is not a positive integer,
            there is no data, or a batch contains NaN or infinity.
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
    population.check_data_arguments(x, batch_size, steps)
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Argument `model` must be a Keras model. Received: {_validation.shown(model)}"
        )
    with engines.scope(model):
        watch = Watch(model)
        watch.run(_shuffled(x, batch_size, steps), batch_size, steps, verbose)
        broken = next((v.path for v in model.variables if not is_finite(v)), None)
    names = [layer.name for layer in watch.layers]
    return Report([
        _examined(layer, layer.name if names.count(layer.name) == 1 else layer.path, watch, broken)
        for layer in watch.layers
    ])  # fmt: skip


def _examined(layer, label, watch, broken):
    found, findings = measures.of_weights(layer)
    # A use may have had nothing except padding.
    uses = list(filter(None, watch.batches.get(id(layer), [])))
    if uses:
        of_data, more = measures.of_batches(layer, uses, id(layer) in watch.pooled, broken)
        if findings and not found:  # NaN in the layer's own weights, which is reported once
            more = [finding for finding in more if finding.kind != "gamma"]
        found, findings = found | of_data, findings + more
    findings = findings + watch.padding[id(layer)].findings(layer)
    return Examined(layer, label, found, findings + watch.causality.findings(layer))


def _shuffled(x, batch_size, steps):
    """Returns the samples of arrays that a pass needs, shuffled as in `fit`; other data unchanged.

    The arrays are checked before, so that an error names the batch in the caller's order.
    """
    if not all(hasattr(leaf, "__array__") for leaf in keras.tree.flatten(x)):
        return x
    arrays = keras.tree.map_structure(keras.ops.convert_to_numpy, x)
    counts = {len(array) for array in keras.tree.flatten(arrays)}
    if len(counts) != 1:
        return x  # Keras has an error for that
    (count,) = counts
    size = batch_size or 32
    for number, start in enumerate(range(0, count, size), 1):
        check_finite([array[start : start + size] for array in keras.tree.flatten(arrays)], number)
    order = np.random.default_rng(0).permutation(count)[: size * steps if steps else None]
    return keras.tree.map_structure(lambda array: array[order], arrays)
