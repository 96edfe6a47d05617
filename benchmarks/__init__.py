"""How fast keras_norm is, against Keras's layers, native kernels and the copying of memory."""
