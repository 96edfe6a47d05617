"""Writers of .mat files as MATLAB's `save` writes them."""

import h5py
import numpy as np
import scipy.io


def cells(values):
    """Returns an n-by-1 cell array for scipy."""
    array = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        array[i, 0] = value
    return array


def write_5(path, columns):
    """Writes variables that are n-by-1 cell arrays, in version 5."""
    scipy.io.savemat(path, {name: cells(values) for name, values in columns.items()})


def write_7_3(path, columns):
    """Writes variables that are n-by-1 cell arrays, in version 7.3: HDF5 after a header."""
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("#refs#")
        for name, values in columns.items():
            references = []
            for value in values:
                dataset = group.create_dataset(f"r{len(group)}", data=stored(value))
                kind = "char" if isinstance(value, str) else matlab_class(value)
                if np.size(value) == 0:
                    dataset.attrs["MATLAB_empty"] = np.uint8(1)
                dataset.attrs["MATLAB_class"] = np.bytes_(kind)
                references.append(dataset.ref)
            cell = file.create_dataset(name, data=[references], dtype=h5py.ref_dtype)
            cell.attrs["MATLAB_class"] = np.bytes_("cell")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 ."
    with open(path, "r+b") as file:
        file.write(header.ljust(124) + b"\x00\x02IM")


def stored(value):
    """Returns a value in HDF5's order of axes; text is a column of UTF-16 units."""
    if np.size(value) == 0:  # the size stands for the values
        return np.array(np.shape(value), "uint64")
    if isinstance(value, str):
        return np.array([[ord(letter)] for letter in value], "uint16")
    return np.asarray(value).T


def matlab_class(value):
    return {"float32": "single", "float64": "double"}.get(value.dtype.name, value.dtype.name)


WRITERS = {"5": write_5, "7.3": write_7_3}


def write(version, path, entries):
    """Writes what the snippet in `load_weights` writes, for {(layer, parameter): value}."""
    columns = {
        "Layer": [layer for layer, _ in entries],
        "Parameter": [parameter for _, parameter in entries],
        "Value": list(entries.values()),
    }
    WRITERS[version](path, columns)
