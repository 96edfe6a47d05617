"""Moving averages of moments."""

from keras import ops


def moving_averages(averages, moments, momenta):
    """Returns moving averages after they have seen one more batch.

    Args:
        averages: Arrays of the same shape: the moving mean and the moving variance.
        moments: `Moments` of the batch, of any shape of the same size. Moments of an empty batch,
            and moments that are not finite, leave the averages unchanged.
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
