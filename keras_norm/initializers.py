"""Initializers that Keras lacks: narrow-normal, functions of the size, values of any shape."""

import inspect
import math

import keras
import numpy as np

from keras_norm import _validation

__all__ = ["NarrowNormal"]

_ACCEPTED = (
    "the name of a Keras initializer, 'narrow-normal', an initializer, a function of the size, or "
    "the values themselves"
)


@keras.saving.register_keras_serializable("keras_norm")
class NarrowNormal(keras.initializers.RandomNormal):
    """Draws from the normal distribution with mean 0 and standard deviation 0.01.

        value = 0.01 * z, with z from the standard normal distribution

    Layers also accept it by the names "narrow-normal" and "narrow_normal".

    Args:
        seed: Integer for the same values in every call; or `keras.random.SeedGenerator` for
            different values in each call. None draws a random seed.

    Call arguments:
        shape: Tuple of integers, the shape of the values.
        dtype: Floating dtype of the values; None for `keras.config.floatx()`.

    Returns:
        A tensor of that shape and dtype.

    Raises:
        ValueError: If `seed` has another type.

    Example:
    >>> import keras
    >>> from keras_norm.initializers import NarrowNormal
    >>> values = keras.ops.convert_to_numpy(NarrowNormal(seed=1)(shape=(1000,)))
    >>> values.shape, round(float(values.std()), 2)
    ((1000,), 0.01)

    Reference:
        MATLAB's `ScaleInitializer="narrow-normal"`,
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.batchnormalizationlayer.html
    """

    def __init__(self, seed=None):
        super().__init__(mean=0.0, stddev=0.01, seed=seed)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"seed": super().get_config()["seed"]}


class SizeFunction(keras.initializers.Initializer):
    """A user's function of the size, with or without a dtype argument.

    The initializer stores the last values. In a file, they replace a function that is not
    registered with Keras.
    """

    def __init__(self, function, name="initializer", low=-math.inf):
        self.function = function
        self.name = name
        self.low = low
        self.values = None

    def __call__(self, shape, dtype=None):
        """Returns the function's values in the given shape."""
        values = self.function(shape, dtype=dtype) if self._takes_dtype() else self.function(shape)
        expected = f"The function given as `{self.name}` must return"
        values = _in_shape(_numbers(values, self.name, expected, self.low), shape, expected)
        self.values = values.tolist()
        return keras.ops.convert_to_tensor(values, dtype=dtype)

    def _takes_dtype(self):
        try:
            parameters = inspect.signature(self.function).parameters.values()
        except ValueError:  # a built-in function without a signature
            return False
        return any(p.name == "dtype" or p.kind is p.VAR_KEYWORD for p in parameters)

    def clone(self):
        """Returns an initializer with the same function and no values yet."""
        return SizeFunction(self.function, self.name, self.low)


def get(identifier, name="initializer", low=-math.inf):
    """Returns the initializer for a layer's argument.

    Args:
        identifier: Any argument of `keras.initializers.get`, "narrow-normal", "narrow_normal", a
            function of the size, or the values as an array, variable or (nested) list.
        name: The argument's name, for messages.
        low: Smallest value accepted. Random values are not checked.

    Raises:
        ValueError: If `identifier` is not an initializer, or given values are not accepted.
    """
    if isinstance(identifier, str) and identifier in ("narrow-normal", "narrow_normal"):
        return NarrowNormal()
    if _is_tensor(identifier) or isinstance(identifier, (np.ndarray, list, tuple)):
        values = _numbers(identifier, name, f"Argument `{name}` must contain", low)
        return keras.initializers.Constant(values.tolist())
    if isinstance(identifier, SizeFunction):
        return SizeFunction(identifier.function, identifier.name, low)
    is_function = callable(identifier) and not inspect.isclass(identifier)
    if is_function and not isinstance(identifier, keras.initializers.Initializer):
        return SizeFunction(identifier, name, low)
    initializer = _validation.keras_object(name, identifier, _of_keras, _ACCEPTED)
    if isinstance(initializer, keras.initializers.Constant):
        _numbers(initializer.value, name, f"Argument `{name}` must contain", low)
    return SizeFunction(initializer, name, low) if inspect.isfunction(initializer) else initializer


def _of_keras(identifier):
    if identifier is None:
        raise ValueError("None is not an initializer.")
    initializer = keras.initializers.get(identifier)
    if not callable(initializer):  # Keras creates an object of any class
        raise ValueError(f"{initializer!r} is not an initializer.")
    return initializer


def for_shape(initializer, shape, name, owner):
    """Returns an initializer for exactly this shape.

    Values of another shape (MATLAB's 1-by-1-by-C) are reshaped.

    Raises:
        ValueError: If the number of values differs from the size of `shape`. The message names
            the argument and `owner`, the layer.
    """
    if not isinstance(initializer, keras.initializers.Constant):
        return initializer
    expected = f"Argument `{name}` of {owner} must contain"
    values = _numbers(initializer.value, name, expected)
    if values.ndim == 0:
        return initializer
    return keras.initializers.Constant(_in_shape(values, shape, expected))


def _in_shape(values, shape, expected):
    """Returns a NumPy array in the given shape; an error's message starts with `expected`."""
    if values.size != np.prod(shape, dtype=int):
        raise ValueError(
            f"{expected} one value for each entry of shape {shape}. "
            f"Received: {values.size} values, of shape {values.shape}"
        )
    return values.reshape(shape)


def serialize(initializer, name, owner):
    """Returns the config of an initializer, with values in place of an unregistered function.

    Raises:
        ValueError: If a function is not registered, and there are no values yet.
    """
    if not isinstance(initializer, SizeFunction):
        return keras.initializers.serialize(initializer)
    function = initializer.function
    if _has_registered_name(function):
        return keras.initializers.serialize(function)
    if initializer.values is not None:
        return keras.initializers.serialize(keras.initializers.Constant(initializer.values))
    raise ValueError(
        f"The function that is `{name}` of {owner} is not registered with Keras, so a file with "
        "the layer could not be loaded. Register the function with "
        "`@keras.saving.register_keras_serializable('my_package')`, or build the layer first: "
        "then the file contains the function's values."
    )


def _has_registered_name(function):
    try:
        name = keras.saving.get_registered_name(function)
    except (AttributeError, TypeError):  # a partial has no name, some objects cannot be looked up
        return False
    return keras.saving.get_registered_object(name) is function


def _is_tensor(x):
    return isinstance(x, keras.Variable) or keras.ops.is_tensor(x)


def _numbers(values, name, expected, low=-math.inf):
    """Returns values as a NumPy array of finite numbers; an error's message starts with `expected`.

    Raises:
        ValueError: If they are not numbers, complex, NaN, infinite, below `low`, or not in a
            regular shape.
    """
    try:
        array = np.asarray(keras.ops.convert_to_numpy(values) if _is_tensor(values) else values)
        if array.dtype.kind not in "biu":  # all floats, including bfloat16, and strings
            if np.iscomplexobj(array):
                raise TypeError("These numbers are complex.")
            array = array.astype("float64")
        if not np.isfinite(array).all():
            raise ValueError("Initial values must not be NaN or infinite.")
        if (array < low).any():
            raise ValueError(f"Initial values must be at least {low}.")
    except (TypeError, ValueError, OverflowError) as error:
        limit = f" >= {low:g}" if math.isfinite(low) else ""
        raise ValueError(
            f"{expected} finite real numbers{limit} in a regular shape. "
            f"Received: {name}={_validation.shown(values)}"
        ) from error
    return array
