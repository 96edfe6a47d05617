"""Executors for PyTorch on the CPU.

In eager mode, `sets` contains the fast operations, `task` solves a problem with them, and
`functions` differentiates the solution. In a compiled graph, `compiled` solves a problem with one
formula.

The executors decline exported graphs, `torch.func`, forward-mode derivatives, subclasses of
tensors, problems without a plan, and stored statistics of small inputs. In a compiled graph they
also decline given moments, for which PyTorch's compiler generates good code.
"""

import torch

from keras_norm import ops
from keras_norm.kernels.autograd import is_transformed, wider
from keras_norm.kernels.torch import compiled
from keras_norm.kernels.torch.functions import Affine, MomentsOfSets, Normalize
from keras_norm.kernels.torch.sets import are_near
from keras_norm.kernels.torch.task import cleaned, task_of
from keras_norm.ops import registry

_count_modes = torch._C._len_torch_dispatch_stack
_mode = torch._C._get_dispatch_mode
# Modes that run operations without values, or record them: code that reads values must not run.
MODES = [getattr(torch._C._TorchDispatchModeKey, name) for name in ("FAKE", "PROXY", "FUNCTIONAL")]
# Subclasses may mean anything.
TENSORS = torch.Tensor, torch.nn.Parameter

# Fewest elements for which the executor standardizes with stored statistics. For smaller inputs,
# the plain function takes less time in Python (`python -m benchmarks`, rows "frozen" and "small").
FEWEST_ELEMENTS = 2**18


def normalize(problem, x, gamma, beta, weights, combine):
    """Solves a problem of `keras_norm.ops.normalize`."""
    if torch.compiler.is_compiling():
        return compiled.normalize(problem, x, gamma, beta, weights, combine)
    if not _suit(x, weights, gamma, beta):
        return None
    task = task_of(problem, x)
    if task is None:
        return None
    if combine is not None:
        return _normalize_replica(problem, task, x, gamma, beta, weights, combine)
    if torch.is_grad_enabled():
        y, *moments = Normalize.apply(x, gamma, beta, weights, task)
    else:
        y, *moments, _ = task.solve(x, gamma, beta, weights)
    return y, task.moments(moments, weights) if problem.moments else None


def _normalize_replica(problem, task, x, gamma, beta, weights, combine):
    """Solves a problem whose moments are combined between two functions."""
    if task.plan.is_rows:
        return None
    *moments, is_spoilt = MomentsOfSets.apply(x, weights, task)
    if is_spoilt:
        x = cleaned(x, weights)
    found = combine(task.moments([*moments, None], weights))
    y = _standardize(task, x, found, gamma, beta)
    return y, ops.Moments(*(v.detach() for v in found)) if problem.moments else None


def standardize(problem, x, moments, gamma, beta):
    """Solves a problem of `keras_norm.ops.standardize`."""
    fields = [v for v in moments[1:] if v is not None]
    if torch.compiler.is_compiling() or not _suit(x, None, gamma, beta, *fields):
        return None
    if x.numel() < FEWEST_ELEMENTS:
        return None
    task = task_of(problem, x)
    if task is None or task.plan.is_rows or len({v.shape for v in fields}) > 1:
        return None
    y = None
    if moments.residual is None and task.sets.are_batch and not torch.is_grad_enabled():
        y = _infer(task, x, moments, gamma, beta)
    return _standardize(task, x, moments, gamma, beta) if y is None else y


def _infer(task, x, moments, gamma, beta):
    """Standardizes with stored statistics near zero, without derivatives; None if one is far."""
    epsilon = task.problem.epsilon
    if not are_near(moments.shift, torch.rsqrt(moments.variance + epsilon)):
        return None
    vectors = map(task.flat, (gamma, beta, moments.shift, moments.variance))
    return task.unview(task.sets.infer(task.view(x), *vectors, epsilon))


def _standardize(task, x, moments, gamma, beta):
    """Standardizes with given moments; autograd differentiates the arrays of their size."""
    count, shift, mean, variance = moments
    if mean is None:
        mean = torch.zeros_like(shift)
    else:
        # Then 1 / sqrt(variance) is 0, and the output beta, for an empty set.
        variance = torch.where(torch.as_tensor(count) > 0, variance, torch.inf)
    shift, mean, variance = map(task.by_set, (shift, mean, variance))
    inverse = torch.rsqrt(variance + task.problem.epsilon)
    constant = None if are_near(shift + mean, inverse) else shift.detach()
    mean = mean + (shift if constant is None else shift - constant)
    parameters = task.sets.scale_and_offset(task.flat(gamma), task.flat(beta), mean, inverse)
    return task.unview(Affine.apply(task.view(x), *parameters, constant, task.sets))


def _suit(x, weights, *others):
    """Returns whether an executor can take these tensors in the current modes of PyTorch."""
    if torch.jit.is_tracing() or is_transformed() or x.numel() == 0:
        return False
    if _count_modes() > 0 and any(_mode(mode) is not None for mode in MODES):
        return False
    dtype = wider(x.dtype)
    # A loop: generators would take as long as the tests.
    for v in (x, weights, *others):
        if v is not None:
            if type(v) not in TENSORS or not v.is_cpu:
                return False
            if v.dtype != dtype and v is not x and v is not weights:
                return False
    return True


OPTIONS = "centered", "mask", "replicas", "exported", "moments"
registry.register("normalize", "torch", normalize, options=OPTIONS, device="cpu")
registry.register("standardize", "torch", standardize, options=["exported"], device="cpu")
