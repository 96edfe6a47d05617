"""PyTorch: `torch.distributed` connects replicas, and steps run eagerly, as in Keras."""

import contextlib

import keras
import torch
from torch import distributed

from keras_norm import _validation
from keras_norm.engines import groups


def total():
    """Returns the sum over the processes of the chosen or the default group."""
    group = groups.chosen()
    return (lambda x: _Sum.apply(x, group)) if _size() > 1 else None


def _size():
    """Returns the number of processes in the chosen or the default group."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size(groups.chosen())


class _Sum(torch.autograd.Function):
    """The sum over a group's processes. Its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(x, group):
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):
        # A backward pass may run in another thread, and after the context of the group has ended.
        ctx.group = inputs[1]

    @staticmethod
    def backward(ctx, gradient):
        return _Sum.apply(gradient, ctx.group), None


def checked_group(group):
    """Returns the process group of `torch.distributed` that `group` is or has."""
    if hasattr(group, "get_group"):
        group = group.get_group()  # of a DeviceMesh with one dimension
    if not (distributed.is_available() and isinstance(group, distributed.ProcessGroup)):
        raise TypeError(
            "On PyTorch, argument `group` must be a process group of `torch.distributed` that this "
            "process is a member of, or a DeviceMesh with one dimension, such as `mesh['data']`. "
            f"Received: group={_validation.shown(group)}"
        )
    return group


def gathered(function, model):
    """Returns what `function` returns in all processes of the chosen or the default group."""
    value = function().contiguous()
    values = [torch.empty_like(value) for _ in range(_size())]
    if len(values) == 1:
        values = [value]
    else:
        distributed.all_gather(values, value, group=groups.chosen())
    return keras.ops.convert_to_numpy(torch.stack(values))


def check_merge(model):
    """Does nothing: each process has its own model."""


def recomputing():
    """Returns whether `torch.utils.checkpoint` repeats a forward pass: inside a backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def mode(layer, training):
    """Returns the training mode of a call of a layer, from the call's argument `training`.

    Without the argument, a layer inside a torch module has the mode that `.train()` and `.eval()`
    set. For any other layer, Keras's default applies: a new torch module is in training mode, a
    Keras layer is not. A repeated forward pass without the argument has the mode of the first one:
    Keras passes the mode of an outer layer only while the call of that layer runs.
    """
    if training is None and recomputing():
        return layer.last_mode
    if training is None and layer.in_torch_module:
        training = layer.training
    if not torch.compiler.is_compiling() and training is not layer.last_mode:
        layer.last_mode = training
    return training


def _mark(module, name, submodule):
    """Marks a layer whose parent is a torch module.

    A module does not know its parent, so a hook marks the layer when it is registered.
    `torch.compile` registers the module that it wraps as `_orig_mod`, which changes no mode.
    """
    if getattr(submodule, "in_torch_module", None) is False and name != "_orig_mod":
        submodule.in_torch_module = not isinstance(module, keras.layers.Layer)


torch.nn.modules.module.register_module_module_registration_hook(_mark)


@contextlib.contextmanager
def scope(model):
    """Runs the model's PyTorch modules in inference, without gradients, then restores their modes.

    Restores PyTorch's random generator too: each pass of a `DataLoader` draws a seed from it.
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


def inlined():
    """Returns a context that changes nothing."""
    return contextlib.nullcontext()


def on_replicas(function, model):
    """Returns `function`."""
    return function


def trace():
    """Returns the level of the transforms of `torch.func`; loops and branches are Python's."""
    return torch._C._functorch.maybe_current_level()


def nesting(outer):
    """Returns "none" at the level `outer`, else "function": tensors of a transform stay in it."""
    return "none" if trace() == outer else "function"


def accumulator(shape):
    """Returns None: `nesting` is never "branch" or "loop"."""
    return None


def add_multiples(tensors, variables, factor):
    """Returns the list of `tensor + factor * variable`, computed together."""
    values = [variable.value for variable in variables]
    if isinstance(factor, torch.Tensor):  # `alpha` would copy it from an accelerator
        values, factor = torch._foreach_mul(values, factor), 1
    return torch._foreach_add(tensors, values, alpha=factor)
