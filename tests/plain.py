"""The plain functions by the signatures of the public ones, past all executors."""

from keras_norm import ops


def normalize(x, axes, epsilon, gamma=None, beta=None, weights=None, combine=None, **options):
    """Returns what `ops.normalize` returns without executors."""
    options["moments"] = options.pop("with_moments", True)
    replicas = combine is not None
    problem = ops.Problem.of(x, axes, epsilon, gamma, beta, weights, replicas=replicas, **options)
    return ops.normalize_plain(problem, x, gamma, beta, weights, combine)


def standardize(x, moments, epsilon, gamma=None, beta=None):
    """Returns what `ops.standardize` returns without executors."""
    problem = ops.Problem.of(x, (), epsilon, gamma, beta)
    return ops.standardize_plain(problem, x, moments, gamma, beta)
