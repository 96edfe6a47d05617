"""Operations of PyTorch: functions that `torch.compile` calls and does not look into."""

import torch


def operation(name, schema):
    """Returns a decorator that makes a function an operation.

    The schema is written out, as versions of PyTorch differ in the annotations that they accept.
    PyTorch keeps compiled graphs on disk, under the names of their operations. After a change of a
    schema, raise the number in the names. Otherwise a kept graph calls the new operation.

    Args:
        name: Name of the operation.
        schema: Types of the arguments and results, in the words of `torch.library`.
    """
    return torch.library.custom_op(f"keras_norm_1::{name}", mutates_args=(), schema=schema)
