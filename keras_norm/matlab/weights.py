"""Loads weights from MATLAB, layer by layer."""

import warnings

import keras
import numpy as np

from keras_norm import _name_value, _validation
from keras_norm.matlab import mat_file, parameters

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_MATRICES = (keras.layers.Dense, keras.layers.Embedding, keras.layers.LSTM)
# MATLAB's table of states also has recurrent states, which belong to a run of the network.
_RUN_STATES = {"HiddenState", "CellState"}


def load_weights(model, path):
    """Loads weights that MATLAB saved, by the names of layers.

    This snippet writes the file in MATLAB, for a trained network `net`:

    ```matlab
    if ~isa(net, "dlnetwork"), net = dag2dlnetwork(net); end
    rows = [net.Learnables; net.State];
    Layer = cellstr(rows.Layer);
    Parameter = cellstr(rows.Parameter);
    Value = cell(height(rows), 1);
    for i = 1:height(rows)
        Value{i} = gather(extractdata(rows.Value{i}));
    end
    save("net.mat", "Layer", "Parameter", "Value");  % add "-v7.3" above 2 GB
    ```

    Every layer of the model that has weights must be in the file, under its name, with exactly
    its parameters and their sizes. Further layers of the file are ignored. All values are checked
    before any is loaded. Files are read as data: they cannot run code.

    Layers can be the normalizations of `keras_norm` and Keras (Scale, Offset, TrainedMean,
    TrainedVariance), Dense, Embedding, LSTM, PReLU, and 1-D to 3-D convolutions: plain, grouped,
    transposed and depthwise (1-D and 2-D). A layer "bn" of an inner model "block" is "block/bn".
    When images are flattened, the first axis varies fastest in MATLAB, and the last axis in Keras:
    put `Permute((3, 2, 1))` before `Flatten`.

    Args:
        model: A built Keras model.
        path: A .mat file of version 5 (needs scipy) or 7.3 (needs h5py);
            `pip install keras-norm[matlab]` installs both.

    Raises:
        ImportError: If the package that reads the file is not installed.
        OSError: If there is no such file.
        TypeError: If `model` is not a Keras model.
        ValueError: If the file is not a .mat file; lacks a layer or a parameter; contains a
            parameter of another size, or one that the layer does not have, or NaN; or if the model
            has a layer that is not in the list above. The message names the place, and the model
            does not change.

    Example:
    >>> import keras, numpy as np, os, scipy.io, tempfile
    >>> from keras_norm import matlab
    >>> model = keras.Sequential([keras.Input((2,)), matlab.groupNormalizationLayer(1, Name="gn")])
    >>> def cells(*values):
    ...     array = np.empty((len(values), 1), object)
    ...     array[:, 0] = values
    ...     return array
    >>> path = os.path.join(tempfile.mkdtemp(), "net.mat")
    >>> scipy.io.savemat(path, {  # as MATLAB would
    ...     "Layer": cells("gn", "gn"),
    ...     "Parameter": cells("Scale", "Offset"),
    ...     "Value": cells(np.ones((1, 1, 2)), np.array([[3.0], [4.0]])),
    ... })
    >>> matlab.load_weights(model, path)
    >>> keras.ops.convert_to_numpy(model.get_layer("gn").beta).tolist()
    [3.0, 4.0]

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/dlnetwork.html
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a Keras model. "
            f"Received: {_validation.shown(model)} (of type {type(model).__name__})"
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' has no weights yet. Build it first: call it on an input."
        )
    entries = mat_file.read(path)
    values = [
        pair
        for name, layer in parameters.layers(model)
        if layer.weights
        for pair in _values(path, entries, name, layer)
    ]
    _warn_of_flatten(model)
    for variable, value in values:
        variable.assign(value)


def _values(path, entries, name, layer):
    """Yields a layer's variables, each with the value that the file has for it."""
    stored = {parameter: value for (owner, parameter), value in entries.items() if owner == name}
    if not stored:
        closest = _name_value.closest(name, {owner for owner, _ in entries})
        raise ValueError(f"'{path}' lacks the layer '{name}' of the model.{closest}")
    variables = parameters.variables(layer)
    for parameter in variables:
        if parameter not in stored:
            raise ValueError(
                f"'{path}' lacks the parameter '{parameter}' of layer '{name}' "
                f"({type(layer).__name__}). It has: {', '.join(stored)}"
            )
    for parameter in stored:
        if parameter not in variables and parameter not in _RUN_STATES:
            raise ValueError(
                f"'{path}', layer '{name}': the model's layer ({type(layer).__name__}) has no "
                f"parameter '{parameter}'. It has: {', '.join(variables)}"
            )
    for parameter, variable in variables.items():
        place = f"'{path}', layer '{name}', parameter '{parameter}'"
        value = _to_keras(place, layer, parameter, stored[parameter], variable.shape)
        yield variable, value


def _to_keras(place, layer, parameter, value, shape):
    """Returns a value with MATLAB's axes converted to Keras's."""
    if parameter == "TrainedVariance" and np.any(value < 0):
        raise ValueError(f"{place}: a variance cannot be negative")
    if max(shape, default=1) == np.prod(shape):
        # The bias of a grouped convolution has an axis for the filters of a group, and for groups.
        is_of_groups = parameter == "Bias" and isinstance(layer, (*_CONVOLUTIONS, *_DEPTHWISE))
        axes = value.shape[:-2] if is_of_groups else value.shape
        is_vector = (is_of_groups and np.prod(axes) == 1) or max(axes, default=1) == value.size
        fits = value.size == np.prod(shape) and is_vector
        found = value.ravel(order="F").reshape(shape) if fits else value
    elif isinstance(layer, _MATRICES):
        found = value.T
    elif isinstance(layer, _CONVOLUTIONS):
        found = _filters(value, len(shape))
    elif isinstance(layer, _DEPTHWISE):
        found = _depthwise(value, len(shape))
    else:
        raise ValueError(
            f"{place}: parameters of {type(layer).__name__} with more than one axis cannot be "
            "converted from MATLAB. Set the weights of this layer yourself."
        )
    if found.shape != tuple(shape):
        raise ValueError(
            f"{place}: the size is {_by(value.shape)}, and must be {_matlab_size(layer, shape)}, "
            f"as the model's layer takes {tuple(shape)} in Keras's order of axes"
        )
    return found


def _by(sizes):
    return "-by-".join(map(str, sizes))


def _matlab_size(layer, shape):
    """Returns the size that MATLAB gives a parameter of this shape, in words."""
    groups = getattr(layer, "groups", 1)
    if max(shape, default=1) == np.prod(shape):
        return f"a vector of {np.prod(shape, dtype=int)}"
    if isinstance(layer, _MATRICES):
        return _by(reversed(shape))
    if isinstance(layer, _DEPTHWISE):
        *positions, channels, filters = shape
        return _by((*positions, 1, filters, channels))
    if groups > 1:
        return _by((*shape[:-1], shape[-1] // groups, groups))
    return _by(shape)


def _filters(value, rank):
    """Returns filters with groups, if there are any, joined with the last axis."""
    if value.ndim > rank:  # ..., filters of a group, groups
        value = value.swapaxes(-1, -2).reshape(*value.shape[:-2], -1)
    return _padded(value, rank)


def _depthwise(value, rank):
    """Returns depthwise filters with Keras's order of the last two axes.

    MATLAB's last three axes are 1, the filters of a channel, and the channels.
    """
    value = _padded(value, rank + 1)
    return value.squeeze(-3).swapaxes(-1, -2) if value.shape[-3] == 1 else value


def _padded(value, rank):
    """Restores the last axes of size 1, which MATLAB drops."""
    return value.reshape(value.shape + (1,) * (rank - value.ndim))


def _warn_of_flatten(model):
    """Warns about a Flatten layer whose order of features differs from MATLAB's."""
    for name, layer in parameters.layers(model):
        nodes = layer._inbound_nodes if isinstance(layer, keras.layers.Flatten) else ()
        for tensor in (tensor for node in nodes for tensor in node.input_tensors):
            shape = tensor.shape[1:]
            several = sum(size != 1 for size in shape) > 1
            if several and not isinstance(tensor._keras_history.operation, keras.layers.Permute):
                order = tuple(range(len(shape), 0, -1))
                warnings.warn(
                    f"Layer '{name}' flattens inputs of shape {shape} with the last axis varying "
                    "fastest, MATLAB with the first axis, so the weights of the next layer have "
                    f"another order. Put `keras.layers.Permute({order})` before it.",
                    stacklevel=3,
                )
