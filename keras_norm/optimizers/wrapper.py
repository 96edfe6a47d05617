"""An optimizer whose state and settings are those of an inner optimizer."""

import contextlib

import keras
import numpy as np

from keras_norm.optimizers import state


def _outside_a_trace():
    """Returns a context in which TensorFlow assigns immediately, not in each traced step."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


def _of_inner(name):
    """Returns a property that is read and set on the inner optimizer."""

    def get(self):
        return getattr(self.inner_optimizer, name)

    def set_(self, value):
        # Keras's constructor sets defaults before there is an inner optimizer.
        if "inner_optimizer" in vars(self):
            setattr(self.inner_optimizer, name, value)

    return property(get, set_)


class OptimizerWrapper(keras.optimizers.Optimizer):
    """Base class of optimizers that wrap another one, and have no variables of their own."""

    built: bool
    weight_decay = _of_inner("weight_decay")
    clipnorm = _of_inner("clipnorm")
    clipvalue = _of_inner("clipvalue")
    global_clipnorm = _of_inner("global_clipnorm")
    use_ema = _of_inner("use_ema")
    ema_momentum = _of_inner("ema_momentum")
    ema_overwrite_frequency = _of_inner("ema_overwrite_frequency")
    loss_scale_factor = _of_inner("loss_scale_factor")
    gradient_accumulation_steps = _of_inner("gradient_accumulation_steps")
    learning_rate = _of_inner("learning_rate")
    variables = _of_inner("variables")
    _iterations = _of_inner("_iterations")
    # What Keras's callback SwapEMAWeights looks for under a LossScaleOptimizer.
    _trainable_variables = _of_inner("_trainable_variables")
    _model_variables_moving_average = _of_inner("_model_variables_moving_average")

    def __init__(self, inner_optimizer, name=None):
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        # An `.h5` file sets the weights of its optimizer before the model has variables.
        self._waiting_weights: tuple = ()

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Excludes variables from the inner optimizer's weight decay, before it is built."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def finalize_variable_values(self, var_list):
        """Finalizes the inner optimizer's variables at the end of training, as by averaging."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def set_weights(self, weights):
        """Sets the values of the inner optimizer's variables, now or when it is built."""
        if self.inner_optimizer.built:
            self.inner_optimizer.set_weights(weights)
        else:
            # Read now: they may belong to a file that is closed later.
            self._waiting_weights = tuple(map(np.array, weights))

    def build_inner(self, variables):
        """Builds the inner optimizer for `variables`, keeping the state of known variables."""
        inner = self.inner_optimizer
        if not inner.built:
            inner.build(variables)
            if self._waiting_weights:
                with _outside_a_trace():
                    inner.set_weights(self._waiting_weights)
                self._waiting_weights = ()
            return
        known = inner._trainable_variables_indices
        keys = [inner._var_key(variable) for variable in variables]
        if known.keys().isdisjoint(keys):
            state.check_known(inner, variables)
        if keys != list(known):
            state.rebuild(inner, variables)

    # The inner optimizer is saved as a part of this one.
    def save_own_variables(self, store):
        """Stores nothing: the inner optimizer stores its own variables."""

    def load_own_variables(self, store):
        """Loads nothing: the inner optimizer loads its own variables."""
