"""What Keras leaves to the engine under it: replicas that meet, steps that are compiled.

One module per backend, all with the same names, chosen here and nowhere else:

- `replicas()`: the `Replicas` that train together with this one, or None.
- `recomputing()`: whether the running code repeats a forward pass for the sake of a gradient.
- `scope(model)`: a context in which a pass over data with `model` can run.
- `compiled(function, model)`: `function` of arrays, compiled if the model's steps are.
- `batch_function(function, model)`: `function` of a batch of inputs that calls the model and
  returns an array, as a compiled function that returns a list of arrays, one for each replica.
  What `function` assigns to variables is dropped.
- `add_multiples(tensors, others, factor)`: the list of `tensor + factor * other`, dense.

`import keras` has imported the backend already, so that this imports nothing heavier. Backends
that cannot train (NumPy, OpenVINO) have no module, and none of these names.
"""

import importlib

import keras

if keras.backend.backend() in ("jax", "tensorflow", "torch"):
    _engine = importlib.import_module(f"{__name__}.{keras.backend.backend()}")
    replicas = _engine.replicas
    recomputing = _engine.recomputing
    scope = _engine.scope
    compiled = _engine.compiled
    batch_function = _engine.batch_function
    add_multiples = _engine.add_multiples
