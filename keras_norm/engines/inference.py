"""NumPy and OpenVINO, which support only inference: one replica, no gradients."""

import keras


def total():
    """Returns None: there is one process."""
    return None


def recomputing():
    """Returns False: nothing is recomputed."""
    return False


def mode(layer, training):
    """Returns `training`; None means Keras's default."""
    return training


def _refusing(what):
    """Returns a function that refuses what needs a backend that trains."""

    def refuse(*_):
        raise NotImplementedError(
            f"{what} cannot be used with the Keras backend '{keras.backend.backend()}', which "
            "supports inference only. Set the environment variable KERAS_BACKEND to 'tensorflow', "
            "'jax' or 'torch' before importing keras."
        )

    return refuse


checked_group = _refusing("A group of replicas")
gathered = check_merge = _refusing("Statistics of several replicas")
add_multiples = _refusing("An optimizer")
scope = compiled = batch_function = inlined = on_replicas = trace = nesting = accumulator = (
    _refusing("A pass over data, as for population statistics or a diagnosis,")
)
