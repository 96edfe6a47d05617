"""PyTorch: `torch.distributed` connects replicas; steps run eagerly, as Keras runs them."""

import contextlib

import keras
import torch
from torch import distributed

from keras_norm.ops import Replicas


def replicas():
    """Returns the processes of the default group of `torch.distributed`."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    if distributed.get_world_size() == 1:
        return None
    return Replicas(size=distributed.get_world_size(), rank=distributed.get_rank(), sum=_Sum.apply)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is the sum of the gradients of all of them."""

    @staticmethod
    def forward(x):
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.apply(gradient)


def recomputing():
    """Says whether `torch.utils.checkpoint` repeats a forward pass: inside a backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


@contextlib.contextmanager
def scope(model):
    """Runs PyTorch modules in the model in inference, without gradients; then as they were.

    So is PyTorch's random generator, from which each pass of a `DataLoader` takes a seed.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def compiled(function, model):
    """Returns `function`."""
    return function


def batch_function(function, model):
    """Returns `function` without effects on variables."""

    def parts(x):
        with keras.StatelessScope():
            return [function(x)]

    return parts


def add_multiples(tensors, others, factor):
    """Returns the list of `tensor + factor * other`, computed together."""
    return torch._foreach_add(tensors, others, alpha=factor)
