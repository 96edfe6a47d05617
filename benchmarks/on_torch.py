"""PyTorch as its users run it: eagerly."""

import torch
import torch.nn.functional as F

MODES = ("eager",)
VERSION = f"torch {torch.__version__}"


def tensor(values, dtype, mode):
    return torch.tensor(values).to(getattr(torch, dtype))


def finish(result):
    """Waits for a result."""


def layer_step(layer, x, gradient, training, mode):
    """Returns a function that runs a step of a layer."""
    parameters = [variable.value for variable in layer.trainable_variables]
    return _step(lambda x: layer(x, training=training), parameters, x, gradient, training)


def native_step(name, options, x, gradient, training, mode):
    """Returns a function that runs a step of the backend's own operation, or None."""
    function, channels = NATIVE[name](x, training, **options)
    parameters = [torch.nn.Parameter(torch.full(channels, v, dtype=x.dtype)) for v in (1.0, 0.0)]
    return _step(lambda x: function(x, *parameters), parameters, x, gradient, training)


def copy(x, mode):
    """Returns a function that copies the input."""
    return x.clone


def _step(forward, parameters, x, gradient, training):
    x = x.clone().requires_grad_(training)

    def train():
        y = forward(x)
        return y, torch.autograd.grad(y, [x, *parameters], gradient)

    def infer():
        with torch.no_grad():
            return forward(x)

    return train if training else infer


def _batch(x, training, axis):
    channels = (x.shape[axis],)
    mean, variance = (torch.full(channels, v) for v in (0.0, 1.0))

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


NATIVE = {"batch": _batch, "group": _group, "layer": _layer, "layer_all": _layer_all}


def kept_bytes(layer, x):
    """Returns how many bytes a training step keeps for its backward pass."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    x = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x, training=True)
    return sum(kept.values())
