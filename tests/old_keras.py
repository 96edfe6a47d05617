"""What Keras before 3.15 cannot do with any layer; the layers do there what Keras can."""

from keras_norm import _keras

RECENT = _keras.VERSION >= (3, 15)
# Something in Keras's own call of a layer breaks the graph of `torch.compile`.
COMPILES_WHOLE_LAYERS = RECENT
# In 3.13, ONNX from JAX needs TensorFlow, ONNX from PyTorch fixes the batch to 1, and there is
# no format "torch".
EXPORTS_FROM_JAX_AND_TORCH = RECENT
