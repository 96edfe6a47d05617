"""Normalization in float64 NumPy, written from the formulas, independent of the package."""

import numpy as np


def normalize(x, axes, epsilon=1e-5, gamma=1.0, beta=0.0, weights=None, centered=True):
    """Returns the output, the mean and the variance; an empty set standardizes to 0.

    If not `centered`, the mean is 0, and the variance the mean square.
    """
    x = np.asarray(x, "float64")
    axes = tuple(axes)
    weights = np.broadcast_to(1.0 if weights is None else np.float64(weights), x.shape)
    held = np.where(weights > 0, x, 0.0)
    count = weights.sum(axes, keepdims=True)
    mean = centered * held.sum(axes, keepdims=True) / np.maximum(count, 1)
    distance = np.where(weights > 0, x - mean, 0.0)
    variance = (distance**2).sum(axes, keepdims=True) / np.maximum(count, 1)
    standard = np.where(count > 0, (x - mean) / np.sqrt(variance + epsilon), 0.0)
    return standard * gamma + beta, mean, variance


def gradients(x, axes, upstream, epsilon=1e-5, gamma=1.0, weights=None, centered=True):
    """Returns the gradients to x, to gamma and to beta, each before its sum over broadcast axes.

    And the scale that errors of the first are measured by: gamma * upstream / deviation, so that
    a projection that cancels does not count as an error.
    """
    x, upstream = np.asarray(x, "float64"), np.asarray(upstream, "float64")
    axes = tuple(axes)
    weights = np.broadcast_to(1.0 if weights is None else np.float64(weights), x.shape)
    standard, _, variance = normalize(x, axes, epsilon, weights=weights, centered=centered)
    count = weights.sum(axes, keepdims=True)
    share = weights / np.maximum(count, 1)
    scaled = upstream * gamma
    inverse = np.where(count > 0, 1 / np.sqrt(variance + epsilon), 0.0)
    along_mean = centered * share * scaled.sum(axes, keepdims=True)
    along_deviation = share * standard * (scaled * standard).sum(axes, keepdims=True)
    to_x = inverse * (scaled - along_mean - along_deviation)
    return to_x, upstream * standard, upstream, inverse * scaled


def sum_to(values, shape):
    """Returns `values` summed over the axes where `shape` has 1."""
    axes = tuple(a for a, (n, m) in enumerate(zip(values.shape, shape, strict=True)) if m == 1 < n)
    return values.sum(axes, keepdims=True)


def error(actual, expected, scale=None):
    """Returns the relative error in the 2-norm."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    norm = np.linalg.norm(expected if scale is None else scale)
    return np.linalg.norm(actual - expected) / (norm or 1.0)
