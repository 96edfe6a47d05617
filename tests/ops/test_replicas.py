"""The merge over replicas, simulated in one process."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_norm.ops import Moments, merge_replicas
from tests import oracle
from tests.gradients import numpy

# The promise of the layers. The rounding of the engine's sum is what takes it up: one after the
# other, 4,096 numbers add up to an error of 4e-6.
TOLERANCE = 2e-6
CHANNELS = 4


class _NextMessage(Exception):
    """Carries a message out of a replica that waits for its sum."""


def ring(messages):
    """Returns the sum of messages that are added one after the other: the least exact order."""
    return functools.reduce(np.add, messages)


def tree(messages):
    """Returns the sum of messages that are added in pairs, as large machines add small messages."""
    while len(messages) > 1:
        messages = [ring(messages[i : i + 2]) for i in range(0, len(messages), 2)]
    return messages[0]


def simulate(locals_, add=ring):
    """Returns what the first replica finds, and the size of each message.

    A replica runs up to the message whose sum is not known yet, all of them one by one, until there
    is no such message.
    """
    sums = []

    def run(local):
        known = iter(sums)

        def total(message):
            found = next(known, None)
            if found is None:
                raise _NextMessage(numpy(message))
            return ops.convert_to_tensor(found)

        return merge_replicas(local, total)

    while True:
        messages = []
        for local in locals_:
            try:
                return run(local), [len(message) for message in sums]
            except _NextMessage as next_:
                messages.append(next_.args[0])
        sums.append(add(messages))


def moments_of(x):
    """Returns the moments of samples as the layer finds them, with the mean in two halves."""
    if not len(x):
        return Moments(*(ops.zeros(shape) for shape in ((), *[(1, CHANNELS)] * 3)))
    x = x.astype("float64")
    mean = x.mean(0, keepdims=True)
    shift = mean.astype("float32")
    fields = shift, (mean - shift).astype("float32"), x.var(0, keepdims=True).astype("float32")
    return Moments(
        ops.convert_to_tensor(np.float32(len(x))),
        *(ops.convert_to_tensor(field) for field in fields),
    )


@pytest.mark.parametrize(
    ("replicas", "spread", "add"),
    [(2, 0.0, ring), (2, 1e5, ring), (512, 1.0, ring), (512, 1e5, ring), (4096, 1e5, tree)],
)
def test_the_moments_of_the_union(replicas, spread, add):
    rng = np.random.default_rng(replicas)
    parts = [
        (1e5 + spread * rng.standard_normal() + rng.standard_normal((n, CHANNELS))).astype(
            "float32"
        )
        for n in rng.integers(0, 5, replicas)
    ]
    parts[0] = (1e5 + rng.standard_normal((3, CHANNELS))).astype("float32")
    found, sizes = simulate([moments_of(part) for part in parts], add)
    x = np.concatenate(parts).astype("float64")
    mean, deviation = x.mean(0), x.std(0)
    error = numpy(found.shift).astype("float64") + numpy(found.residual) - mean
    assert abs(error / deviation).max() < TOLERANCE
    assert oracle.error(found.variance, x.var(0)[None]) < TOLERANCE
    assert float(numpy(found.count).squeeze()) == len(x)
    # The size of a message does not depend on the number of replicas.
    assert sizes == [CHANNELS + 1, 2 * CHANNELS]


def test_a_union_of_nothing_is_empty():
    found, _ = simulate([moments_of(np.zeros((0, CHANNELS), "float32"))] * 3)
    for field in found:
        np.testing.assert_array_equal(numpy(field), np.zeros(field.shape))


def test_nan_reaches_all():
    parts = [moments_of(np.ones((2, CHANNELS), "float32")) for _ in range(2)]
    parts[1] = parts[1]._replace(residual=keras.ops.full((1, CHANNELS), np.nan))
    found, _ = simulate(parts)
    assert np.isnan(numpy(found.variance)).all()
