"""Moving averages of moments."""

from keras import ops

from keras_norm.ops.accelerated import accelerated


@accelerated
def moved(averages, moments, momenta):
    """Returns moving averages after they have seen one more batch.

    Args:
        averages: Arrays of the same shape: the moving mean and the moving variance.
        moments: `Moments` of the batch, of any shape of the same size. One that is empty, or that
            is not finite, moves nothing.
        momenta: For each average a number in [0, 1]: how much of it stays.

    Returns:
        A list of two arrays of the shapes and dtypes of `averages`.
    """
    usable = ops.all(moments.count > 0)
    for values in (moments.mean, moments.variance):
        usable = ops.logical_and(usable, ops.all(ops.isfinite(values)))
    found = []
    for old, batch, momentum in zip(
        averages, (moments.mean, moments.variance), momenta, strict=True
    ):
        batch = ops.cast(ops.reshape(ops.stop_gradient(batch), old.shape), old.dtype)
        found.append(ops.where(usable, old * momentum + batch * (1.0 - momentum), old))
    return found
