"""An optimizer that applies the multipliers of variables."""

from keras_norm.optimizers.multiplier_optimizer import MultiplierOptimizer

__all__ = ["MultiplierOptimizer"]
