"""The group of replicas that `replica_group` chose, or None for all replicas."""

import contextlib
import types

# Not local to a thread or a context: PyTorch runs backward passes in separate threads.
_entered: list = []


def chosen():
    """Returns the group of the context that was entered last and has not ended; None without."""
    return _entered[-1].group if _entered else None


@contextlib.contextmanager
def choose(group):
    """Chooses a group, as the backend's `checked_group` returns it, until the context ends."""
    context = types.SimpleNamespace(group=group)
    _entered.append(context)
    try:
        yield
    finally:
        # Contexts of several threads may end in any order.
        _entered[:] = [other for other in _entered if other is not context]
