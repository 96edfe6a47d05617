"""Diagnosis: what is wrong with the normalization of a model.

`diagnosing` is the function. `watching` sees the calls of a model's layers in a pass over data;
`masks` and `causality` follow what is not in the numbers. `measures` compares the numbers with what
is healthy, and `report` and `picture` show the result.
"""

from keras_norm.diagnosis.diagnosing import diagnose

__all__ = ["diagnose"]
