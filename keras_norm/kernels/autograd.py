"""What the executors for PyTorch share: dtypes, and derivatives of derivatives.

Executors compute first derivatives. If a derivative is differentiated in turn, or batched, the
plain function computes it. The derivatives of PyTorch's native normalizations are wrong from the
third order on.
"""

import torch

HALF = torch.float16, torch.bfloat16

# Private symbols: a version that lacks one runs without these executors.
_has_functorch = torch._C._are_functorch_transforms_active
_is_batched = torch._C._functorch.is_legacy_batchedtensor
_ = torch.autograd.forward_ad._current_level


def wider(dtype):
    """Returns the dtype of the moments: float32 for a 16-bit dtype, else the same."""
    return torch.float32 if dtype in HALF else dtype


def wide(x):
    """Returns a 16-bit array in float32, any other array as it is."""
    return x.float() if x.dtype in HALF else x


def axes_as_numbers(problem):
    """Returns the axes of a problem as numbers while `torch.compile` traces.

    With `dynamic=True`, an axis may be a symbol, for which `in` is False although `==` is True.
    """
    rank = range(len(problem.shape))
    return tuple([axis for axis in rank if any(axis == other for other in problem.axes)])


def is_transformed():
    """Returns whether `torch.func` or a forward-mode derivative is active."""
    return _has_functorch() or torch.autograd.forward_ad._current_level >= 0


def is_differentiated(gradient):
    """Returns whether a backward pass is differentiated in turn, or takes a batch of gradients."""
    return _is_batched(gradient) or torch.is_grad_enabled() or is_transformed()


def plain_gradients(function, inputs, needed, gradients):
    """Returns gradients that can be differentiated again; None where none is needed."""
    indices = [i for i in range(len(inputs)) if needed[i]]
    with torch.enable_grad():
        # Aliases: if one input is computed from another, its part of the gradient counts once.
        inputs = [None if v is None else v.view_as(v) for v in inputs]
        outputs = function(*inputs)
        found = torch.autograd.grad(
            outputs, [inputs[i] for i in indices], gradients, create_graph=True
        )
    by_index = dict(zip(indices, found, strict=True))
    return [by_index.get(i) for i in range(len(inputs))]
