"""Moments over the replicas of a training step."""

from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_norm.ops.moments import Moments, merge


class Replicas(NamedTuple):
    """Replicas that run the same code on different samples.

    Attributes:
        size: How many there are.
        rank: Which one this is, from 0: an integer or a scalar tensor.
        sum: A function of an array that returns the sum of what all replicas call it with. Its
            gradient is the same sum of the gradients of all replicas.
    """

    size: int
    rank: Any
    sum: Callable


def merge_replicas(local, replicas):
    """Returns the moments of the union of the sets of all replicas.

    There is one message for each direction. It holds a row for each replica, with its count,
    shift, residual and variance; a replica fills in its own row, and the sum of zeros and one
    number is exact. So means reach the merge in both halves, as accurate as they were found, and
    replicas that hold nothing, or more than others, weigh what they hold.

    Args:
        local: `Moments` of this replica's sets, with one count for all of them.
        replicas: `Replicas`; all of them call this function, also those whose sets are empty.

    Returns:
        `Moments` of the shape of `local`, the same on all replicas.
    """
    shape = ops.shape(local.shift)
    fields = [ops.reshape(field, (-1,)) for field in local]
    row = ops.concatenate(fields)
    is_own = ops.expand_dims(ops.arange(replicas.size) == replicas.rank, 1)
    message = ops.reshape(ops.where(is_own, row, 0), (-1,))
    rows = ops.reshape(replicas.sum(message), (replicas.size, -1))
    by_field = ops.reshape(rows[:, 1:], (replicas.size, 3, -1))
    merged = merge(Moments(rows[:, :1], *ops.unstack(by_field, 3, axis=1)), [0])
    count = ops.reshape(merged.count, [1] * len(shape))
    return Moments(count, *(ops.reshape(field, shape) for field in merged[1:]))
