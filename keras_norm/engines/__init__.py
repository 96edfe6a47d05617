"""Functions that Keras does not provide for all backends: replicas, compiled steps.

One module per backend, all with the same names. The backend is chosen here and nowhere else:

- `replicas()`: the `Replicas` that train together with this one, or None.
- `recomputing()`: whether the running code repeats a forward pass to compute a gradient.
- `default_training(layer)`: the training mode of a call that does not say `training`; None if
  Keras's default applies.
- `scope(model)`: a context in which a pass over data with `model` can run.
- `compiled(function, model)`: `function` of arrays, compiled if the model's steps are.
- `batch_function(function, model)`: `function` of a batch of inputs that calls the model and
  returns an array, as a compiled function that returns a list of arrays, one for each replica.
  Assignments to variables in `function` are discarded.
- `add_multiples(tensors, others, factor)`: the list of `tensor + factor * other`, dense.

`import keras` has already imported the backend, so these modules import nothing heavier. Backends
that cannot train (NumPy, OpenVINO) share the module `inference`.
"""

import importlib

import keras

_backend = keras.backend.backend()
_trains = _backend in ("jax", "tensorflow", "torch")
_engine = importlib.import_module(f"{__name__}.{_backend if _trains else 'inference'}")
replicas = _engine.replicas
recomputing = _engine.recomputing
default_training = _engine.default_training
scope = _engine.scope
compiled = _engine.compiled
batch_function = _engine.batch_function
add_multiples = _engine.add_multiples
