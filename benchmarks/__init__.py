"""Benchmarks of keras_norm against Keras's layers, native kernels and copies of memory."""
