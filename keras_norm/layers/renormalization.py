"""The check of the bounds of batch renormalization, the option `renorm` of batch normalization."""

import math

from keras_norm import _validation

_NAMES = ("rmin", "rmax", "dmax")
_ACCEPTED = "None, or a dictionary that may contain numbers >= 0 as 'rmin', 'rmax' and 'dmax'"


def check_clipping(clipping):
    """Returns the argument `renorm_clipping` as a dictionary of floats, or None, checked.

    As in Keras, None and infinity mean no bound.

    Raises:
        TypeError: If it is neither None nor a dictionary, or contains a value that is not a number.
        ValueError: If it contains another key, a negative number, or rmax < rmin.
    """
    if clipping is None:
        return None
    received = f"Received: renorm_clipping={_validation.shown(clipping)}"
    if not isinstance(clipping, dict):
        raise TypeError(f"Argument `renorm_clipping` must be {_ACCEPTED}. {received}")
    if not clipping.keys() <= set(_NAMES):
        raise ValueError(
            "Received invalid keys for `renorm_clipping` argument. It must be "
            f"{_ACCEPTED}. {received}"
        )
    bounds = {
        name: _validation.real(f"renorm_clipping['{name}']", value, low=0.0)
        for name, value in clipping.items()
        if value is not None and not (isinstance(value, float) and value == math.inf)
    }
    if bounds.get("rmax", math.inf) < bounds.get("rmin", 0.0):
        raise ValueError(
            "rmax should be greater than rmin in the `renorm_clipping` argument. " + received
        )
    return bounds
