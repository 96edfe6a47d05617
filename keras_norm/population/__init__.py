"""Population statistics: mean and variance of all of the data, for inference.

Moving statistics are an average over the last batches, while the weights were still moving, with
each batch's own error. After training the moments of all of the data can be had exactly: the
moments of the population are the merge of the moments of its batches.
"""

from keras_norm.population.checks import check, check_positive
from keras_norm.population.loop import Loop, infer
from keras_norm.population.moving import merge_moving_statistics
from keras_norm.population.observer import not_visible
from keras_norm.population.targets import normalizations
from keras_norm.population.update import update_population_statistics

__all__ = [
    "Loop",
    "check",
    "check_positive",
    "infer",
    "merge_moving_statistics",
    "normalizations",
    "not_visible",
    "update_population_statistics",
]
