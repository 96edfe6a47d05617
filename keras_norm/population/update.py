"""The function that updates population statistics."""

import inspect
import weakref

from keras_norm import _validation, engines
from keras_norm.population.checks import check, check_model
from keras_norm.population.passes import Passes, signature


def update_population_statistics(
    model, x, batch_size=None, steps=None, passes=1, verbose="auto", merge_replicas=False
):
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

    Layers that are used several times get the statistics of all their uses (of those in loops
    alone, if there are any, on TensorFlow). On PyTorch, give an RNN with a layer in its cell
    `unroll=True`, as Keras calls the first step twice otherwise. Where a layer is called in a
    `tf.function` or `jax.jit` of its own, or on JAX in a loop or branch, Python runs the model one
    operation after the other, which takes longer.

    A batch in which a layer's moments are not finite is skipped, and counted in a warning; layers
    that no data reaches keep what they have, with a warning. If the data or the model fails, or
    the run is interrupted, the old statistics are back.

    Under `tf.distribute` and `keras.distribution` the moments are those of all replicas. Under
    `torch.distributed`, and with several processes of JAX that have a model each, every process
    calls this with its own part of the data. With `merge_replicas=True` all processes get the
    statistics of the union of the parts. The parts may differ in size, and some may be empty.
    There is one message a pass; synchronized layers standardize with the moments of their
    process. If the pass fails in a process, it raises an error in all of them. Without
    `merge_replicas`, layers with `synchronized=True` get the statistics of the data of all
    processes, which must have the same number of batches, and others those of their process.

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
    check_model(model)
    merge_replicas = _validation.boolean("merge_replicas", merge_replicas)
    if merge_replicas and not model.built:
        raise ValueError(
            "Processes can share the statistics of a model that is built: call it on a batch, or "
            "`model.build(input_shape)`, in every process first. "
            f"Received: merge_replicas=True and the model '{model.name}', which is not built"
        )
    if passes > 1 and steps is None and inspect.isgenerator(x):
        raise ValueError(
            "A generator serves one pass, and is then used up: give `steps` too if it goes on, or "
            f"data that can be gone through again. Received: passes={passes}, steps=None"
        )
    with engines.scope(model):
        # Not kept if it fails: a failure leaves Keras's loop in a state of its own.
        run = _kept.pop(model, None)
        if run is None or run.signature != signature(model):
            run = Passes(model)
        run.update(x, batch_size, steps, passes, verbose, merge_replicas)
        _kept[model] = run


# Compiled steps are kept, as Keras keeps those of `evaluate`, with what they depend on.
_kept = weakref.WeakKeyDictionary()
