"""MATLAB's property sheet of a layer, as text."""

import numbers

import numpy as np

from keras_norm.matlab.property_table import HEADINGS, matlab_class, properties


def property_sheet(layer):
    """Returns MATLAB's property sheet of a layer, as text.

    `display` is MATLAB's name for this function, which does not print.

    Args:
        layer: A layer of `keras_norm`, from MATLAB's functions or not.

    Returns:
        The sheet, a string of several lines. Parameters are `[]` without values, and have their
        size and class otherwise.

    Raises:
        TypeError: If `layer` is not a layer of `keras_norm` that MATLAB has.

    Example:
    >>> from keras_norm import matlab
    >>> layer = matlab.groupNormalizationLayer(4, Name="GN1", Scale=[1, 1, 1, 1])
    >>> print(matlab.property_sheet(layer))
      GroupNormalizationLayer with properties:
    <BLANKLINE>
               Name: 'GN1'
        NumChannels: 'auto'
    <BLANKLINE>
       Hyperparameters
          NumGroups: 4
            Epsilon: 1.0000e-05
    <BLANKLINE>
       Learnable Parameters
             Offset: []
              Scale: [4×1 double]
    <BLANKLINE>
      Show all properties

    Reference:
        https://www.mathworks.com/help/deeplearning/ref/nnet.cnn.layer.groupnormalizationlayer.html
    """  # noqa: RUF002
    cls = matlab_class(layer)
    table = cls.property_table
    values = properties(layer)
    groups = [("", ["Name", "NumChannels"])]
    groups += [(heading, [n for n in table if table[n].heading == heading]) for heading in HEADINGS]
    width = 4 + max(len(name) for _, names in groups for name in names)
    lines = [f"  {cls.__name__} with properties:"]
    for heading, names in groups:
        if names:
            lines += ["", *([f"   {heading}"] if heading else [])]
            lines += [f"{name:>{width}}: {_text(values[name])}" for name in names]
    return "\n".join([*lines, "", "  Show all properties"])


display = property_sheet


def _text(value):
    """Returns a value as MATLAB's `format short` shows it."""
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, np.ndarray):
        kind = {"float32": "single", "float64": "double"}.get(value.dtype.name, value.dtype.name)
        size = value.shape if value.ndim > 1 else (value.size, 1)
        return f"[{'×'.join(map(str, size))} {kind}]"  # noqa: RUF001 as MATLAB writes sizes
    if isinstance(value, numbers.Real):
        number = float(value)
        if number.is_integer():
            return f"{number:.0f}"
        return f"{number:.4f}" if 0.001 < abs(number) < 1000 else f"{number:.4e}"
    return str(value)
