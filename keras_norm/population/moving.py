"""The merge of the moving statistics of several replicas."""

from keras import ops

from keras_norm import engines
from keras_norm.population.checks import check_model
from keras_norm.population.targets import normalizations


def merge_moving_statistics(model):
    """Sets the moving statistics of all replicas to their merge.

    Without `synchronized=True`, each replica has its own moving statistics. The merge treats them
    as moments of equally many samples:

        mean = average of the replicas' moving_mean
        variance = average of (moving_variance + (moving_mean - mean)^2)

    The replicas are the processes of `torch.distributed` (or of the group of
    `keras_norm.replica_group`), the processes of `jax.distributed`, or the replicas of the model's
    `tf.distribute` strategy. Each process must call this function, with the same layers. It sends
    one message. Layers with `trainable=False` stay unchanged, and so does a single replica.
    `keras_norm.callbacks.MergeMovingStatistics` calls this function after each epoch.

    Args:
        model: Keras model with `keras_norm.BatchNormalization` layers.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If the model has no `keras_norm.BatchNormalization` layer.

    Example:
    >>> import keras, keras_norm
    >>> model = keras.Sequential([keras.Input((1,)), keras_norm.BatchNormalization()])
    >>> keras_norm.merge_moving_statistics(model)  # on every process, after an epoch

    Reference:
        Chan, Golub, LeVeque, "Algorithms for computing the sample variance: analysis and
        recommendations", The American Statistician 37 (1983), 242-247
    """
    check_model(model)
    layers = [layer for layer in normalizations(model) if layer.trainable and layer.built]
    if not layers:
        return

    def own():
        pairs = [[layer.moving_mean.value, layer.moving_variance.value] for layer in layers]
        return ops.concatenate([ops.stack(pair) for pair in pairs], axis=1)

    with engines.scope(model):
        means, variances = engines.gathered(own, model).astype("float64").swapaxes(0, 1)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        first = 0
        for layer in layers:
            channels = slice(first, first + layer.num_channels)
            first = channels.stop
            layer.set_statistics(mean[channels], variance[channels])
