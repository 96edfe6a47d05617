"""The group of replicas that `replica_group` chose, or None for all replicas."""

import contextlib

# Not local to a thread or a context: PyTorch runs backward passes in separate threads.
chosen = None


@contextlib.contextmanager
def choose(group):
    """Chooses a group, as the backend's `checked_group` returns it, until the context ends."""
    global chosen
    before, chosen = chosen, group
    try:
        yield
    finally:
        chosen = before
