"""NumPy and OpenVINO, which support only inference: one replica, no gradients."""

import keras


def total():
    """Returns None: there is one process."""
    return None


def checked_group(group):
    """Raises an error: there are no replicas."""
    _refuse("A group of replicas")


def gathered(function, model):
    """Raises an error: there are no replicas."""
    _refuse("Statistics of several replicas")


def check_merge(model):
    """Raises an error: there are no replicas."""
    _refuse("Statistics of several replicas")


def recomputing():
    """Returns False: nothing is recomputed."""
    return False


def mode(layer, training):
    """Returns `training`; None means Keras's default."""
    return training


def scope(model):
    """Raises an error: a pass over data needs a backend that trains."""
    _refuse(_PASS)


def compiled(function, model):
    """Raises an error: there are no compiled steps."""
    _refuse(_PASS)


def batch_function(function, model):
    """Raises an error: there are no compiled steps."""
    _refuse(_PASS)


def inlined():
    """Raises an error: there are no compiled steps."""
    _refuse(_PASS)


def on_replicas(function, model):
    """Raises an error: there is one process."""
    _refuse(_PASS)


def trace():
    """Raises an error: there is no pass."""
    _refuse(_PASS)


def nesting(outer):
    """Raises an error: there is no pass."""
    _refuse(_PASS)


def accumulator(shape):
    """Raises an error: there is no pass."""
    _refuse(_PASS)


def add_multiples(tensors, variables, factor):
    """Raises an error: there are no gradients to add to."""
    _refuse("An optimizer")


_PASS = "A pass over data, as for population statistics or a diagnosis,"


def _refuse(what):
    raise NotImplementedError(
        f"{what} cannot be used with the Keras backend '{keras.backend.backend()}', which supports "
        "inference only. Set the environment variable KERAS_BACKEND to 'tensorflow', 'jax' or "
        "'torch' before importing keras."
    )
