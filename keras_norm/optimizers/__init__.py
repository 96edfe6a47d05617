"""Optimizers that know the multipliers of variables."""
