"""Batch renormalization, the option `renorm=True` of batch normalization."""

import math

from keras import ops

from keras_norm import _validation
from keras_norm.layers.normalization import Normalization
from keras_norm.ops import Renorm, convert, standard_deviation

_NAMES = ("rmin", "rmax", "dmax")
_ACCEPTED = "None, or a dictionary that may hold numbers >= 0 as 'rmin', 'rmax' and 'dmax'"


class Renormalization(Normalization):
    """Base class of `BatchNormalization`, with the code for `renorm=True`.

    The variables have Keras's names and order, so that files are compatible in both directions:
    `moving_stddev`, from which `moving_variance` is computed, and `renorm_mean` and
    `renorm_stddev`, which training uses.
    """

    def _set_renorm_arguments(self, renorm, renorm_clipping, renorm_momentum):
        self.renorm = _validation.boolean("renorm", renorm)
        self.renorm_clipping = _check_clipping(renorm_clipping)
        self.renorm_momentum = _validation.real(
            "renorm_momentum", renorm_momentum, low=0.0, high=1.0
        )

    def _renorm_arguments(self):
        return {
            "renorm": self.renorm,
            "renorm_clipping": self.renorm_clipping,
            "renorm_momentum": self.renorm_momentum,
        }

    def _add_renorm_statistics(self):
        def mean(shape, dtype):
            return ops.copy(convert(self.moving_mean, dtype))

        def deviation(shape, dtype):
            return ops.sqrt(ops.maximum(convert(self.moving_variance, dtype), 0))

        self.moving_stddev = self._add_statistic("moving_stddev", deviation)
        self.renorm_mean = self._add_statistic("renorm_mean", mean)
        self.renorm_stddev = self._add_statistic("renorm_stddev", deviation)

    def _renorm_statistics(self, shape, dtype):
        """Returns the `Renorm` of a batch; None without batch renormalization."""
        if not self.renorm:
            return None
        variables = self.renorm_mean, self.renorm_stddev
        statistics = (convert(variable, dtype, shape) for variable in variables)
        return Renorm(*statistics, **(self.renorm_clipping or {}))

    def _moved_with_renorm(self, moments, momenta):
        """Returns pairs of a variable and its new value.

        Args:
            moments: `Moments` of the batch.
            momenta: The momenta of the two statistics that inference uses.
        """
        moments = moments._replace(variance=standard_deviation(moments.variance, self.epsilon))
        old, variance = (convert(v, v.dtype) for v in (self.moving_stddev, self.moving_variance))
        moved = [
            *self._moved((self.moving_mean, self.moving_stddev), moments, momenta),
            *self._moved(
                (self.renorm_mean, self.renorm_stddev), moments, [self.renorm_momentum] * 2
            ),
        ]
        new = moved[1][1]
        # If an unusable batch left the deviation unchanged, rounding must not change the variance.
        variance = ops.where(new == old, variance, ops.maximum(ops.square(new) - self.epsilon, 0))
        return [*moved, (self.moving_variance, variance)]

    def _follow_moving_variance(self):
        variance = convert(self.moving_variance, self.moving_variance.dtype)
        self.moving_stddev.assign(standard_deviation(variance, self.epsilon))


def _check_clipping(clipping):
    """Returns the argument as a dictionary of floats, or None, checked.

    As in Keras, None and infinity mean no bound.

    Raises:
        TypeError: If it is neither None nor a dictionary, or holds a value that is not a number.
        ValueError: If it holds another key, a negative number, or rmax < rmin.
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
