"""The group of replicas that was chosen instead of all replicas."""

import contextlib

# Not a variable of a thread or a context: PyTorch runs backward passes in threads of its own.
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
