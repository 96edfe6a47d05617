"""RMSProp with MATLAB's epsilon."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_norm")
class MatlabRMSprop(keras.optimizers.RMSprop):
    """RMSProp that adds epsilon to the root, as in MATLAB; Keras adds it under the root.

        velocity = rho * velocity + (1 - rho) * gradient^2
        variable = variable - learning_rate * gradient / (sqrt(velocity) + epsilon)

    Arguments are those of `keras.optimizers.RMSprop`, without `momentum` and `centered`.
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates a variable and the moving average of its squared gradient."""
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        velocity = self._velocities[self._get_variable_index(variable)]
        mean = self.rho * velocity + (1 - self.rho) * ops.square(gradient)
        self.assign(velocity, mean)
        self.assign_sub(variable, rate * gradient / (ops.sqrt(mean) + self.epsilon))
