"""The table of kinds of normalization, with their equivalents in Keras, PyTorch, Flax and MATLAB.

Each module beside this one has the conversions of one kind, and its row. Conversion, folding,
diagnosis, MATLAB's sheets and the tests read the table.
"""

from keras_norm.conversion.kinds import batch, group, instance, layer, rms

KINDS = (batch.KIND, layer.KIND, group.KIND, instance.KIND, rms.KIND)


def kind_of(layer):
    """Returns the kind that a layer's class is or derives from, in Keras or here; or None."""
    known = {cls: kind for kind in KINDS for cls in (kind.layer, kind.keras) if cls is not None}
    return next((known[cls] for cls in type(layer).__mro__ if cls in known), None)


def names(field):
    """Returns the names in a field of the table for a message: 'A, B or C'."""
    return _listed([name for kind in KINDS for name in getattr(kind, field)])


def our_names(kinds=KINDS):
    """Returns the names of our layers for a message: 'A, B or C'."""
    return _listed([kind.layer.__name__ for kind in kinds])


def _listed(names):
    return f"{', '.join(names[:-1])} or {names[-1]}"
