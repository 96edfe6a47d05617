"""Diagnosis: finds faults in the normalization of a model.

`diagnosing` contains the function. `watching` records the calls of a model's layers in a pass over
data. `masks` finds lost masks, and `causality` finds normalizations that look ahead. `measures`
compares statistics with healthy ranges, and `report` and `picture` show the result.
"""

from keras_norm.diagnosis.diagnosing import diagnose

__all__ = ["diagnose"]
