"""Messages of synchronized batch normalization, and errors, for 2 to 4,096 replicas.

    KERAS_BACKEND=torch python -m benchmarks.replicas

The replicas are simulated in one process. A layer has 256 channels; means are near 1e5 and differ
by 1e5 between replicas, and standard deviations are 1. Errors are relative to float64 NumPy: of the
mean, in standard deviations, and of the variance. They are computed for an engine that adds in
pairs, as large machines add small messages, and for one that adds sequentially.
"""

import functools

import keras
import numpy as np
from keras import ops

from keras_norm.ops import Moments, merge_replicas

CHANNELS = 256
REPLICAS = (2, 8, 64, 1024, 4096)
BYTES = 4


class _NextMessage(Exception):
    """Carries a message out of a replica that waits for its sum."""


def ring(messages):
    """Returns the sum of messages that are added one after the other: the least exact order."""
    return functools.reduce(np.add, messages)


def tree(messages):
    """Returns the sum of messages that are added in pairs."""
    while len(messages) > 1:
        messages = [ring(messages[i : i + 2]) for i in range(0, len(messages), 2)]
    return messages[0]


def simulate(replicas, add):
    """Returns the moments of the union of replicas, and the numbers in each message.

    A replica runs up to the message whose sum is not known yet, all of them one by one, until there
    is no such message.

    Args:
        replicas: List of `Moments`.
        add: A function that returns the sum of a list of messages.
    """
    sums = []

    def run(local):
        known = iter(sums)

        def total(message):
            found = next(known, None)
            if found is None:
                raise _NextMessage(ops.convert_to_numpy(message))
            return ops.convert_to_tensor(found)

        return merge_replicas(local, total)

    while True:
        messages = []
        for local in replicas:
            try:
                return run(local), [len(message) for message in sums]
            except _NextMessage as waiting:
                messages.append(waiting.args[0])
        sums.append(add(messages))


def moments_of(x):
    """Returns the moments of samples as the layer finds them, with the mean in two halves."""
    count = np.float32(len(x))
    x = x.astype("float64") if len(x) else np.zeros((1, *x.shape[1:]))
    mean = x.mean(0, keepdims=True)
    shift = mean.astype("float32")
    fields = count, shift, mean - shift, x.var(0, keepdims=True)
    return Moments(*(ops.convert_to_tensor(np.asarray(field, "float32")) for field in fields))


def errors(found, x):
    """Returns the errors of the mean, in deviations, and of the variance, relative."""
    x = x.astype("float64")
    shift, residual, variance = (
        ops.convert_to_numpy(field).astype("float64").ravel() for field in found[1:]
    )
    deviation = x.std(0)
    return (
        abs((shift + residual - x.mean(0)) / deviation).max(),
        abs(variance / x.var(0) - 1).max(),
    )


def main():
    print(f"Keras {keras.__version__}, {keras.backend.backend()}, {CHANNELS} channels")
    print("replicas   bytes forward   bytes back   a row for each   error in pairs   in a ring")
    for number in REPLICAS:
        rng = np.random.default_rng(number)
        means = 1e5 + 1e5 * rng.standard_normal((number, 1, 1))
        x = (means + rng.standard_normal((number, 4, CHANNELS))).astype("float32")
        replicas = [moments_of(part) for part in x]
        cells = []
        for add in (tree, ring):
            found, sizes = simulate(replicas, add)
            cells.append(max(errors(found, x.reshape(-1, CHANNELS))))
        # The gradient of the second message goes back.
        forward, back = BYTES * sum(sizes), BYTES * sizes[-1]
        rows = BYTES * number * (3 * CHANNELS + 1)
        print(
            f"{number:8} {forward:15,} {back:12,} {rows:16,}"
            + "".join(f"{cell:15.1e}" for cell in cells)
        )


if __name__ == "__main__":
    main()
