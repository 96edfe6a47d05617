"""Initial values that override an initializer, which is kept."""

import keras

from keras_norm import initializers


@keras.saving.register_keras_serializable("keras_norm")
class GivenValues(keras.initializers.Constant):
    """Initializer that returns given values, and stores the initializer that they override.

    In MATLAB a layer can have both `Scale` and `ScaleInitializer`: it uses the values, and both
    properties can be read.

    Args:
        value: The values, a (nested) list.
        overridden: The initializer, or its config.
    """

    def __init__(self, value, overridden):
        super().__init__(value)
        self.overridden = initializers.get(overridden)

    def get_config(self):
        """Returns the constructor's arguments, with values for an unregistered function."""
        try:
            overridden = initializers.serialize(self.overridden, "overridden", "these values")
        except ValueError:  # it is never called: the file does not need it
            overridden = initializers.serialize(
                keras.initializers.Constant(self.value), "overridden", "these values"
            )
        return {"value": self.value, "overridden": overridden}

    @classmethod
    def from_config(cls, config):
        """Returns an initializer with the arguments in `config`."""
        return cls(**config)


def given(initializer):
    """Returns the values, one for each channel, that an initializer returns, or None."""
    if isinstance(initializer, keras.initializers.Constant) and isinstance(initializer.value, list):
        return initializer.value
    return None


def overridden(initializer, default):
    """Returns the initializer that is used if no values are given."""
    if isinstance(initializer, GivenValues):
        initializer = initializer.overridden
    return default if given(initializer) is not None else initializer
