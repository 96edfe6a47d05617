"""Population statistics: mean and variance of all of the data, for inference.

Moving statistics average over the last batches, whose weights still changed, and include the
sampling error of each batch. After training, the moments of all of the data can be computed
exactly: they are the merge of the moments of all batches.
"""

from keras_norm.population.checks import check_data_arguments, check_positive
from keras_norm.population.loop import Loop, infer
from keras_norm.population.moving import merge_moving_statistics
from keras_norm.population.observer import not_visible
from keras_norm.population.targets import normalizations
from keras_norm.population.update import update_population_statistics

__all__ = [
    "Loop",
    "check_data_arguments",
    "check_positive",
    "infer",
    "merge_moving_statistics",
    "normalizations",
    "not_visible",
    "update_population_statistics",
]
