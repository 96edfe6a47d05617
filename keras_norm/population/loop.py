"""The loop over the data."""

import inspect
import warnings

import keras

# Batches of a generator without `steps` after which a warning says that it may have no end.
_MANY_BATCHES = 10_000


class Loop(keras.Model):
    """Keras's loop over data, with its progress bar, around another step.

    This model has no layers and no variables. On JAX, `evaluate` moves a model's values out of its
    variables while it runs, and an error would lose them.

    Args:
        step: A function of a batch of inputs.
    """

    def __init__(self, step):
        super().__init__(name="population_statistics")
        self._step = step
        self._completed = 0
        self._may_be_endless = False
        self.built = True  # otherwise Keras would use up a batch to build it
        self.compile()

    def run(self, x, batch_size, steps, verbose):
        """Goes through the data once."""
        self._completed = 0
        self._may_be_endless = steps is None and inspect.isgenerator(x)
        try:
            self.evaluate(x, batch_size=batch_size, steps=steps, verbose=verbose)
        except Exception as error:
            error.add_note(f"The pass over the data failed in batch {self._completed + 1}.")
            raise

    def _count(self):
        self._completed += 1
        if self._may_be_endless and self._completed == _MANY_BATCHES:
            warnings.warn(
                f"The generator has returned {_MANY_BATCHES} batches so far. If it has no end, "
                "pass `steps`, the number of batches in a pass.",
                stacklevel=2,
            )

    @property
    def metrics(self):
        """No metrics."""
        return []

    def make_test_function(self, force=False):
        """Makes the step that `evaluate` repeats."""

        def step(*arguments):
            # On JAX, the state of this model comes first. The data is an iterator, or on PyTorch a
            # list of one batch.
            *state, data = arguments
            batch = data[0] if isinstance(data, list) else next(data)
            self._step(keras.utils.unpack_x_y_sample_weight(batch)[0])
            self._count()
            return ({}, *state) if state else {}

        self.test_function = step


def infer(model, x):
    """Calls a model in inference; a `call` without `training` has no other mode."""
    if "training" in inspect.signature(model.call).parameters:
        return model(x, training=False)
    return model(x)
