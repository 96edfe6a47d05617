"""The layers in the table of kinds, for the tests that all of them share.

A kind that is added to the table is in these tests at once. It fails where its own settings or
its sets are missing.
"""

import functools

from keras_norm.conversion.kinds import KINDS

LAYERS = {kind.layer.__name__.removesuffix("Normalization").lower(): kind.layer for kind in KINDS}
# Arguments that a layer needs for inputs with a few channels.
NEEDED = {"group": {"groups": 2}}


def makers(**settings):
    """Returns functions that make a layer, by kind.

    Args:
        **settings: Dictionaries of default arguments, by kind.
    """
    return {
        kind: functools.partial(layer, **(NEEDED.get(kind, {}) | settings.get(kind, {})))
        for kind, layer in LAYERS.items()
    }
