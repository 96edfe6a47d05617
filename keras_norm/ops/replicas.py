"""Moments over the replicas of a training step."""

from keras import ops

from keras_norm.ops.moments import Moments, moments_around, shared_shift


def merge_replicas(local, total):
    """Returns the moments of the union of the sets of all replicas.

    Two messages go forward and one comes back, and none grows with the number of replicas. The
    first one brings the count and a rounded mean of the union, which all replicas subtract from
    their own mean; both halves of a mean take part in the difference, so that nothing is lost. The
    second one brings the mean and the mean square of the differences. Gradients flow through the
    second one only. Replicas that hold nothing, or more than others, weigh what they hold.

    Args:
        local: `Moments` of this replica's sets, with one count for all of them.
        total: A function of an array that returns the sum of what all replicas call it with, the
            same on all of them. Its gradient is the same sum of the gradients of all replicas. All
            replicas call this function, also those whose sets are empty.

    Returns:
        `Moments` of the shape of `local`, the same on all replicas.
    """
    shape = ops.shape(local.shift)
    count = ops.reshape(local.count, (1,))
    parts = Moments(count, *(ops.reshape(field, (-1,)) for field in local[1:]))

    def held(values):
        return ops.where(count > 0, values, 0)

    first = total(ops.stop_gradient(ops.concatenate([count, held(count * parts.mean)])))
    number = first[:1]
    weight = ops.where(number > 0, number, 1)
    shift = shared_shift(first[1:] / weight)

    def means(*values):
        second = total(ops.concatenate([count * v for v in values])) / weight
        return ops.split(second, len(values))

    merged = Moments(number, shift, *moments_around(shift, parts, held, means))
    count = ops.reshape(merged.count, [1] * len(shape))
    return Moments(count, *(ops.reshape(field, shape) for field in merged[1:]))
