"""Functions that Keras does not provide for all backends: replicas, compiled steps.

One module per backend, all with the same names. The backend is chosen here and nowhere else:

- `total()`: the function of an array that returns its sum over the replicas that train together,
  or None if there is one replica. The gradient of a sum is the sum of the gradients.
- `checked_group(group)`: a group of replicas for `groups.chosen`, checked.
- `gathered(function, model)`: the arrays that `function()` returns on all replicas of a running
  model, or in all processes, stacked; called outside of compiled code.
- `check_merge(model)`: raises an error where processes cannot each run a pass of their own.
- `recomputing()`: whether the running code repeats a forward pass to compute a gradient.
- `mode(layer, training)`: the training mode of a call with the argument `training`; None if Keras's
  default applies.
- `scope(model)`: a context in which a pass over data with `model` can run.
- `compiled(function, model)`: `function` of arrays, compiled if the model's steps are.
- `batch_function(function, model)`: `function` of a batch of inputs that calls the model and
  returns an array, as a compiled function that returns a list of arrays, one for each replica.
  Assignments to variables in `function` are discarded.
- `inlined()`: a context in which Python runs functions that have a compilation of their own, one
  operation after another; on JAX also loops and branches.
- `on_replicas(function, model)`: `function` of a batch of inputs, run on each replica with its part
  of the batch, not compiled.
- `trace()`: the trace that runs this code, equal only to itself. Loops, branches, and functions
  with their own compilation have separate traces.
- `nesting(outer)`: how this code is nested in the trace `outer`: "none" if that trace runs it,
  "branch" or "loop" (a branch in a loop included) if an accumulator can be assigned, else
  "function".
- `accumulator(shape)`: a variable of zeros for such assignments in any scope, one for each replica;
  None if the backend does not need it.
- `add_multiples(tensors, variables, factor)`: the list of `tensor + factor * variable`, dense.

`import keras` has already imported the backend, so these modules import nothing heavier. Backends
that cannot train (NumPy, OpenVINO) share the module `inference`.
"""

import importlib

import keras

_backend = keras.backend.backend()
_trains = _backend in ("jax", "tensorflow", "torch")
_engine = importlib.import_module(f"{__name__}.{_backend if _trains else 'inference'}")
total = _engine.total
checked_group = _engine.checked_group
gathered = _engine.gathered
check_merge = _engine.check_merge
recomputing = _engine.recomputing
mode = _engine.mode
scope = _engine.scope
compiled = _engine.compiled
batch_function = _engine.batch_function
inlined = _engine.inlined
on_replicas = _engine.on_replicas
trace = _engine.trace
nesting = _engine.nesting
accumulator = _engine.accumulator
add_multiples = _engine.add_multiples
