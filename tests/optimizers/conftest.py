"""The tests of one backend are collected where that backend runs."""

import keras

collect_ignore = [
    f"test_{name}.py" for name in ("tensorflow", "jax", "torch") if name != keras.backend.backend()
]
