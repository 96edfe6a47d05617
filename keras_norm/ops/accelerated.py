"""The way from the plain functions to the kernels, which may be missing."""

try:
    from keras_norm.kernels import accelerated
except ModuleNotFoundError:

    def accelerated(plain):
        """Returns the plain function."""
        return plain


__all__ = ["accelerated"]
