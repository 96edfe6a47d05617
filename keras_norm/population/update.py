"""The function that updates population statistics."""

import weakref

from keras_norm import _validation, engines
from keras_norm.population.checks import check_data_arguments, check_model
from keras_norm.population.passes import Passes, signature


def update_population_statistics(
    model, x, batch_size=None, steps=None, passes=1, verbose="auto", merge_replicas=False
):
    """Sets the statistics of batch normalization layers to the moments of all of the data.

    In one pass over the data, each layer's moments are merged over all batches:

        moving_mean = mean of the layer's inputs over all of the data
        moving_variance = mean of (input - moving_mean)^2 over all of the data

    The result is exact (to 2e-6) whatever the batch sizes; masks exclude padding. During the pass,
    `BatchNormalization` layers standardize with each batch's own moments, as in training, and
    everything else runs in inference. Only these two variables change (with `renorm`, also
    `moving_stddev`), and training can continue with moving statistics as before.

    With small batches, the moments of batches are noisy, so the inputs of deeper layers differ from
    those in inference. `passes=n` repeats the pass; from the second pass on, the layers use the
    statistics of the pass before. A model with n consecutive normalizations is then consistent with
    its own inference.

    Arrays are read in order. In the first pass, a batch must look like a training batch: shuffle
    data that is sorted by class, or use several passes.

    Layers with `trainable=False` keep their statistics and run in inference. An explicit
    `training=False` in a call has no such effect: a part of the model that is called as
    `backbone(x, training=False)` gets new statistics. To keep the old ones, set
    `backbone.trainable = False`.

    Layers that are used several times get the statistics of all their uses (on TensorFlow, only of
    the uses in loops, if there are any). On PyTorch, and on TensorFlow with
    `run_eagerly=True`, an RNN with a layer in its cell needs `unroll=True`, as Keras otherwise
    calls the first step twice. If the model calls a layer in its own `tf.function` or `jax.jit`, or
    on JAX in a loop or branch, Python runs the model operation by operation, which takes longer.

    A batch in which a layer's moments are not finite is skipped, and a warning counts such batches.
    Layers that no data reaches keep their statistics, with a warning. If the data or the model
    fails, or the run is interrupted, the old statistics are restored.

    Under `tf.distribute` and `keras.distribution`, the moments are those of all replicas. Under
    `torch.distributed`, and with several processes of JAX that have a model each, every process
    calls this function with its own part of the data. With `merge_replicas=True`, all processes get
    the statistics of the union of the parts. The parts may differ in size, and some may be empty.
    A pass sends one message; synchronized layers standardize with the moments of their process. If
    the pass fails in one process, all processes raise an error. Without `merge_replicas`, layers
    with `synchronized=True` get the statistics of the data of all processes, which must have the
    same number of batches; other layers get those of their process. A model of a
    `tf.distribute.MultiWorkerMirroredStrategy` needs no `merge_replicas`: pass the same data in all
    processes, and the strategy distributes it.

    Args:
        model: Keras model with `keras_norm.BatchNormalization` layers. Keras's own layers do not
            change.
        x: The data, as `fit` takes it: an array, or a list or dict of arrays; or a
            `tf.data.Dataset`, `keras.utils.PyDataset`, PyTorch `DataLoader` or generator of
            `(x,)`, `(x, y)` or `(x, y, sample_weight)`. Targets and sample weights are not used.
        batch_size: Positive integer, samples per batch of arrays; None for 32.
        steps: Positive integer, number of batches in a pass; None for all. Required for endless
            data.
        passes: Positive integer, the number of passes over the data. With a generator, more than
            one pass requires `steps`.
        verbose: "auto", 0, 1 or 2, as in `evaluate`.
        merge_replicas: Boolean, whether all processes get the statistics of the data of all of
            them. The model must be built. Processes are those of `torch.distributed`, of the
            group of `keras_norm.replica_group`, or of `jax.distributed`.

    Raises:
        TypeError: If `model` is not a Keras model, or `merge_replicas` not a boolean.
        ValueError: If the model has no `keras_norm.BatchNormalization` layer, a number is not a
            positive integer (or `passes` more than 1 for a generator without `steps`), the data
            has no end and `steps` is None, a pass finds no data, or `merge_replicas` is True and
            the model is not built.
        RuntimeError: If a layer is called where the pass cannot see it, or with
            `merge_replicas=True` if the pass failed in another process.
        NotImplementedError: If `merge_replicas` is True and the model is one of a
            `tf.distribute.MultiWorkerMirroredStrategy`.

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
    check_data_arguments(x, batch_size, steps, passes)
    check_model(model)
    merge_replicas = _validation.boolean("merge_replicas", merge_replicas)
    if merge_replicas and not model.built:
        raise ValueError(
            "Argument `merge_replicas` needs a built model: first call the model on a batch, or "
            "`model.build(input_shape)`, in every process. "
            f"Received: merge_replicas=True and the model '{model.name}', which is not built"
        )
    if merge_replicas:
        engines.check_merge(model)
    with engines.scope(model):
        # Not kept if it fails: an error leaves Keras's loop in an undefined state.
        run = _kept.pop(model, None)
        if run is None or run.signature != signature(model):
            run = Passes(model)
        run.update(x, batch_size, steps, passes, verbose, merge_replicas)
        _kept[model] = run


# Compiled steps are kept, as Keras keeps those of `evaluate`.
_kept = weakref.WeakKeyDictionary()
