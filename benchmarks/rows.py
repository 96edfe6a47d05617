"""The rows of the benchmark: layers on inputs of typical networks."""

import functools
from typing import NamedTuple

import keras

import keras_norm
from keras_norm.conversion.kinds import KINDS

# What is run of a layer: a training step; inference; inference with gradients, as of frozen
# statistics while a model is fine-tuned.
STEPS = ("training", "inference", "frozen")

IMAGE = (32, 56, 56, 64)
IMAGE_CF = (32, 64, 56, 56)
FEATURE = (4096, 1024)
SEQUENCE = (32, 128, 768)
LANGUAGE = (8, 512, 4096)
TABLE = (100_000, 128)
AUDIO = (8, 48_000, 32)
# Deep in a network for images, and a batch of long texts.
DEEP = (32, 14, 14, 256)
DEEP_CF = (32, 256, 14, 14)
TEXT = (32, 512, 512)

# The layers whose outputs differ between training and inference.
BATCH_LAYERS = (keras_norm.BatchNormalization, keras.layers.BatchNormalization)


class Empty(keras.layers.Layer):
    """A layer that does nothing: what a call costs, and a model without its normalization."""

    supports_masking = True

    def call(self, inputs, training=None, mask=None):
        """Returns the inputs."""
        return inputs


class ScaleAndShift(keras.layers.Layer):
    """Multiplies by a number for each channel and adds one: the least that frozen statistics cost.

    Args:
        axis: Integer, the channel axis.
    """

    def __init__(self, axis, dtype=None):
        super().__init__(dtype=dtype)
        self._axis = axis

    def build(self, input_shape):
        """Creates the numbers."""
        shape = [1] * len(input_shape)
        shape[self._axis] = input_shape[self._axis]
        # Of the input's rank, so that the step holds the two operations and no others.
        self.scale = self.add_weight(shape=shape, initializer="ones")
        self.shift = self.add_weight(shape=shape, initializer="zeros")

    def call(self, inputs, training=None):
        """Returns the inputs, scaled and shifted."""
        return inputs * self.scale + self.shift


class Row(NamedTuple):
    """One line of the table.

    `ours` and `keras` take a dtype policy and return a layer. `native` names a function of the
    backend's module and its options, or is None. Inference must move at least as many bytes as
    `passes` passes over the input; a training step as many as eight.

    With `mask`, our layer gets a mask of the first two axes, and Keras's where it uses one
    (`keras_masks`); our layer without the mask is timed too. With `compiled`, PyTorch compiles the
    layers (`torch.compile`).
    """

    name: str
    shape: tuple
    ours: object
    keras: object
    native: tuple | None
    passes: int = 3
    dtype: str = "float32"
    steps: tuple = ("training", "inference")
    mask: bool = False
    keras_masks: bool = False
    compiled: bool = False


def _batch(axis):
    return (
        lambda **options: keras_norm.BatchNormalization(axis=axis, **options),
        lambda **options: keras.layers.BatchNormalization(axis=axis, **options),
        ("batch", {"axis": axis}),
        2,
    )


def _group(groups, axis=-1, native="group"):
    return (
        lambda **options: keras_norm.GroupNormalization(groups, axis=axis, **options),
        lambda **options: keras.layers.GroupNormalization(groups, axis=axis, **options),
        (native, {"groups": groups, "axis": axis}),
    )


def _layer():
    return (
        lambda **options: keras_norm.LayerNormalization(reduction_axes=-1, **options),
        lambda **options: keras.layers.LayerNormalization(**options),
        ("layer", {}),
    )


# Over all axes except the batch, as by default; Keras's equivalent is one group.
_, KERAS_ALL, NATIVE_ALL = _group(1, native="layer_all")
ALL = (keras_norm.LayerNormalization, KERAS_ALL, NATIVE_ALL)

ROWS = [
    Row("BN image", IMAGE, *_batch(-1)),
    Row("BN image, channels first", IMAGE_CF, *_batch(1)),
    Row("BN feature", FEATURE, *_batch(-1)),
    Row("LN channel, sequence", SEQUENCE, *_layer()),
    Row("LN all, image", IMAGE, *ALL),
    Row("GN 32, image", IMAGE, *_group(32)),
    Row("GN 32, image, channels first", IMAGE_CF, *_group(32, axis=1)),
    Row("GN channel-wise, image", IMAGE, *_group(-1)),
    Row("GN 8, sequence", SEQUENCE, *_group(8)),
]

# Without targets: what 16-bit inputs cost.
HALF_ROWS = [
    row._replace(name=f"{row.name}, {dtype}", dtype=dtype, native=None)
    for dtype in ("float16", "bfloat16")
    for row in ROWS
    if row.name in ("BN image", "LN channel, sequence", "GN 32, image")
]

RMS = (keras_norm.RMSNormalization, keras.layers.RMSNormalization, ("rms", {}))
RMS_ROWS = [
    Row(f"RMS {shape}{suffix}", shape, *RMS, dtype=dtype)
    for dtype, suffix in (("float32", ""), ("bfloat16", ", bfloat16"))
    for shape in (SEQUENCE, LANGUAGE)
]

# Bounds in the middle of the schedule in Ioffe's paper.
BOUNDS = {"rmin": 1 / 3, "rmax": 3.0, "dmax": 5.0}


def _renorm(layer):
    return functools.partial(layer, renorm=True, renorm_clipping=BOUNDS)


def _of_kind(kind):
    name = kind.layer.__name__.removesuffix("Normalization")
    return Row(
        f"{name}, image",
        IMAGE,
        kind.layer,
        lambda **options: kind.to_keras(kind.layer(**options), False),
        (name.lower(), {}),
    )


def _has_keras(kind):
    """Returns whether Keras has a layer to compare with."""
    try:
        kind.to_keras(kind.layer(), False)
    except ValueError:
        return False
    return True


# A row for each kind of the table that Keras has and that has none above.
_MEASURED = {type(row.ours()) for row in ROWS + RMS_ROWS}
OTHER_ROWS = [_of_kind(kind) for kind in KINDS if kind.layer not in _MEASURED and _has_keras(kind)]
# Keras has `renorm` from 3.14.
RENORM_ROWS = [
    Row("BN renorm, image", IMAGE, *map(_renorm, BATCH_LAYERS), ("renorm", {}), 2)
    for _ in range(hasattr(keras.layers.BatchNormalization(), "renorm"))
]

MASKED_ROWS = [
    Row("BN, mask", SEQUENCE, *_batch(-1), steps=("training",), mask=True, keras_masks=True),
    Row("LN channel, mask", SEQUENCE, *_layer(), steps=("training",), mask=True),
    Row("LN all, mask", SEQUENCE, *ALL, steps=("training",), mask=True),
    Row("GN 8, mask", SEQUENCE, *_group(8), steps=("training",), mask=True),
]

LONG_ROWS = [
    Row("BN (100000, 128)", TABLE, *_batch(-1)),
    Row("GN 8 (8, 48000, 32)", AUDIO, *_group(8)),
    Row("GN channel-wise (8, 48000, 32)", AUDIO, *_group(-1)),
]

DEEP_ROWS = [
    Row("BN deep", DEEP, *_batch(-1)),
    Row("BN deep, channels first", DEEP_CF, *_batch(1)),
    Row("GN 32 deep", DEEP, *_group(32)),
    Row("GN 32 deep, channels first", DEEP_CF, *_group(32, axis=1)),
    Row("LN channel, text", TEXT, *_layer()),
]

FROZEN_ROWS = [
    Row("BN image", IMAGE, *_batch(-1), steps=("frozen",)),
    Row("BN image, channels first", IMAGE_CF, *_batch(1), steps=("frozen",)),
    Row("BN feature", FEATURE, *_batch(-1), steps=("frozen",)),
]

WITHOUT_PARAMETERS = {"center": False, "scale": False}
BARE_ROWS = [
    Row(
        f"{row.name}, no gamma and beta",
        row.shape,
        functools.partial(row.ours, **WITHOUT_PARAMETERS),
        functools.partial(row.keras, **WITHOUT_PARAMETERS),
        None,
        row.passes,
    )
    for row in ROWS
    if row.name in ("BN image", "LN channel, sequence", "GN 32, image")
]

COMPILED_ROWS = [
    row._replace(name=f"{row.name}, compiled", compiled=True, native=None)
    for row in [*ROWS, RMS_ROWS[0], DEEP_ROWS[2]]
    if "first" not in row.name and row.name != "BN feature"
]

SMALL_ROWS = [
    Row("BN (8, 16)", (8, 16), *_batch(-1)),
    Row("LN (8, 16)", (8, 16), *_layer()),
    Row("GN 4 (8, 16)", (8, 16), *_group(4)),
]


def sections():
    """Returns the rows of each section of the table, and a factor for its number of runs."""
    return {
        "main": (ROWS, 1),
        "RMS": (RMS_ROWS, 1),
        "instance and renorm": (OTHER_ROWS + RENORM_ROWS, 1),
        "masks": (MASKED_ROWS, 1),
        "long axes": (LONG_ROWS, 1),
        "deep": (DEEP_ROWS, 1),
        "frozen": (FROZEN_ROWS, 1),
        "no parameters": (BARE_ROWS, 1),
        "16 bits": (HALF_ROWS, 1),
        "compiled": (COMPILED_ROWS, 1),
        "small": (SMALL_ROWS, 10),
    }


def tiny(row):
    """Returns the row on an input that takes no time: the shape that CI runs."""
    sizes = {32: 2, 56: 6, 14: 3, 4096: 8, 128: 5, 768: 64, 1024: 16, 512: 4, 100_000: 9, 48_000: 7}
    return row._replace(shape=tuple(sizes.get(size, size) for size in row.shape))


def resnet(normalization, jit_compile):
    """Returns a network in the style of ResNet for (32, 32, 3) images, compiled."""
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
    for width in (32, 64, 128):
        stride = 1 if width == 32 else 2
        shortcut = layers.Conv2D(width, 1, strides=stride, use_bias=False)(x)
        x = layers.ReLU()(normalization()(x))
        x = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.ReLU()(normalization()(x))
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.Add()([x, shortcut])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(normalization()(x)))
    model = keras.Model(inputs, layers.Dense(10)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, jit_compile=jit_compile)
    return model
