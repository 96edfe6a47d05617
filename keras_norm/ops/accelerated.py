"""The way from the plain functions to the kernels, which may be missing."""

try:
    from keras_norm.kernels import accelerated, load
except ModuleNotFoundError:

    def accelerated(plain):
        """Returns the plain function."""
        return plain

    def load():
        """Has nothing to look up."""


__all__ = ["accelerated", "load"]
