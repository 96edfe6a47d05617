"""Steps on PyTorch, eager."""

import keras
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MODES = ("eager",)
COMPILES_LAYERS = True
VERSION = f"torch {torch.__version__}"
# Where Keras puts tensors.
DEVICE = keras.ops.zeros(()).device.type


def use_threads(number):
    """Sets the number of threads, if given; returns the number as text."""
    if number is None:
        return ""
    torch.set_num_threads(number)
    return f", {number} thread" + "s" * (number > 1)


def tensor(values, dtype, mode):
    return torch.tensor(values, device=DEVICE).to(getattr(torch, dtype))


def finish(result):
    """Waits for a result."""
    if DEVICE != "cpu":
        torch.accelerator.synchronize()


def device_name():
    """Returns the name of the device that is measured."""
    return torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE


def layer_step(layer, x, gradient, step, mode, mask=None, compiled=False):
    """Returns a function that runs a step of a layer."""
    parameters = [variable.value for variable in layer.trainable_variables]
    options = {"training": step == "training"} | ({} if mask is None else {"mask": mask})

    def forward(x):
        return layer(x, **options)

    if compiled:
        torch._dynamo.reset()
        forward = torch.compile(forward)
    return _step(forward, parameters, x, gradient, step != "inference")


def native_step(name, options, x, gradient, training, mode):
    """Returns a function that runs a step of the backend's own operation, or None."""
    if name not in NATIVE:
        return None
    function, channels = NATIVE[name](x, training, **options)
    parameters = [
        torch.nn.Parameter(torch.full(channels, v, dtype=x.dtype, device=x.device))
        for v in ((1.0,) if name == "rms" else (1.0, 0.0))
    ]
    return _step(lambda x: function(x, *parameters), parameters, x, gradient, training)


def copy(x, mode):
    """Returns a function that copies the input."""
    return x.clone


def _step(forward, parameters, x, gradient, with_gradients):
    x = x.clone().requires_grad_(with_gradients)

    def train():
        y = forward(x)
        return y, torch.autograd.grad(y, [x, *parameters], gradient)

    def infer():
        with torch.no_grad():
            return forward(x)

    return train if with_gradients else infer


def _batch(x, training, axis):
    channels = (x.shape[axis],)
    mean, variance = (torch.full(channels, v, device=x.device) for v in (0.0, 1.0))

    def forward(x, gamma, beta):
        x = x.movedim(axis, 1)
        y = F.batch_norm(x, mean, variance, gamma, beta, training, momentum=0.1)
        return y.movedim(1, axis)

    return forward, channels


def _group(x, training, groups, axis):
    channels = (x.shape[axis],)
    groups = channels[0] if groups == -1 else groups

    def forward(x, gamma, beta):
        return F.group_norm(x.movedim(axis, 1), groups, gamma, beta).movedim(1, axis)

    return forward, channels


def _layer(x, training):
    return lambda x, gamma, beta: F.layer_norm(x, x.shape[-1:], gamma, beta), x.shape[-1:]


def _layer_all(x, training, **_):
    return lambda x, gamma, beta: F.layer_norm(x, x.shape[1:], gamma, beta), x.shape[1:]


def _rms(x, training):
    return lambda x, gamma: F.rms_norm(x, x.shape[-1:], gamma, eps=1e-5), x.shape[-1:]


def _instance(x, training):
    def forward(x, gamma, beta):
        return F.instance_norm(x.movedim(-1, 1), weight=gamma, bias=beta).movedim(1, -1)

    return forward, x.shape[-1:]


NATIVE = {
    "batch": _batch,
    "group": _group,
    "instance": _instance,
    "layer": _layer,
    "layer_all": _layer_all,
    "rms": _rms,
}


def memory(make, policy, x, mask):
    """Returns what a training step keeps for its backward pass and allocates, in inputs."""
    layer = make(dtype=policy)
    layer.build(x.shape)
    options = {"training": True} | ({} if mask is None else {"mask": mask})
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x, **options)
    parameters = [variable.value for variable in layer.trainable_variables]
    with Temporaries(x.numel()) as temporaries:
        y = layer(x, **options)
        torch.autograd.grad(y, [x, *parameters], torch.ones_like(y))
    return {"kept": sum(kept.values()) / x.nbytes, "temporaries": temporaries.count}


class Temporaries(TorchDispatchMode):
    """Counts the tensors that operations allocate with at least as many elements as the input.

    Mapping new memory takes longer than copying it, and chance decides which operation maps it.
    """

    def __init__(self, elements):
        super().__init__()
        self.count = 0
        self._elements = elements

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Runs an operation, and counts what is new in its results."""
        found = function(*args, **(kwargs or {}))
        known = {
            v.untyped_storage().data_ptr() for v in tree_leaves((args, kwargs)) if _is_array(v)
        }
        for value in tree_leaves(found):
            if _is_array(value) and value.numel() >= self._elements:
                self.count += value.untyped_storage().data_ptr() not in known
        return found


def _is_array(value):
    return isinstance(value, torch.Tensor)
