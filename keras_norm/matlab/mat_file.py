"""Reads the data of .mat files: version 5 with scipy, version 7.3 with h5py."""

import numpy as np

FIELDS = ("Layer", "Parameter", "Value")
_HEADER_5 = b"MATLAB 5.0 MAT-file"
_HEADER_7_3 = b"MATLAB 7.3 MAT-file"


def read(path):
    """Returns the parameters in a file that was written by the snippet in `load_weights`.

    Returns:
        A dictionary from the names of layer and parameter to an array with MATLAB's axes.

    Raises:
        ImportError: If the package that reads this version of files is not installed.
        OSError: If there is no such file.
        ValueError: If it is not a .mat file, or one that the snippet did not write.
    """
    with open(path, "rb") as file:
        header = file.read(len(_HEADER_5))
    readers = {_HEADER_5: _read_5, _HEADER_7_3: _read_7_3}
    if header not in readers:
        raise ValueError(
            f"'{path}' is not a .mat file of version 5 (MATLAB's default) or 7.3: it does "
            f"not begin with {_HEADER_5.decode()!r} or {_HEADER_7_3.decode()!r}"
        )
    try:
        columns = readers[header](path)
    except ImportError:
        raise
    except Exception as error:  # for a damaged file, scipy and h5py raise errors of many types
        raise ValueError(f"'{path}' is not a .mat file that can be read: {error}") from error
    return _entries(path, columns)


def _entries(path, columns):
    missing = [name for name in FIELDS if name not in columns]
    if missing:
        raise ValueError(
            f"'{path}' lacks the variable '{missing[0]}'. It must contain the cell arrays Layer, "
            "Parameter and Value, which the snippet in the documentation of `load_weights` writes."
        )
    lengths = [len(columns[name]) for name in FIELDS]
    if len(set(lengths)) > 1:
        raise ValueError(f"'{path}': Layer, Parameter and Value differ in length: {lengths}")
    entries = {}
    for layer, parameter, value in zip(*(columns[name] for name in FIELDS), strict=True):
        place = f"'{path}', layer {layer!r}, parameter {parameter!r}"
        if not isinstance(layer, str) or not isinstance(parameter, str):
            raise ValueError(f"{place}: the names must be text")
        if (layer, parameter) in entries:
            raise ValueError(f"{place}: the file contains it twice")
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
            raise ValueError(f"{place}: the value must be a numeric array")
        if not np.all(np.isfinite(value)):
            raise ValueError(f"{place}: the value contains NaN or Inf")
        entries[layer, parameter] = value
    return entries


def _read_5(path):
    try:
        import scipy.io
    except ImportError as error:
        raise _missing("scipy") from error
    content = scipy.io.loadmat(path, variable_names=FIELDS, appendmat=False)
    return {
        name: [_text_or_array(cell) for cell in np.ravel(content[name])]
        for name in FIELDS
        if name in content
    }


def _text_or_array(cell):
    cell = np.asarray(cell)
    return "".join(cell.ravel()) if cell.dtype.kind == "U" else cell


def _read_7_3(path):
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py") from error
    with h5py.File(path, "r") as file:
        return {
            name: [_from_dataset(file[reference]) for reference in np.ravel(file[name][()])]
            for name in FIELDS
            if name in file
        }


def _from_dataset(dataset):
    kind = dataset.attrs.get("MATLAB_class", b"").decode()
    if "MATLAB_empty" in dataset.attrs:  # the dataset then contains the size
        return "" if kind == "char" else np.zeros(dataset[()].astype(int))
    if kind == "char":
        return "".join(map(chr, np.ravel(dataset[()])))
    return dataset[()].T  # in MATLAB, the first axis varies fastest


def _missing(package):
    return ImportError(
        f"Reading this .mat file needs {package}: pip install {package}, or keras-norm[matlab]"
    )
