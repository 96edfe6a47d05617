"""Exported models have the same outputs in their runtimes as in Keras.

Each backend has a list of formats, whose packages belong to its environment; a missing package
fails the test. docs/export.md lists the limits.
"""

import keras
import pytest

import keras_norm
from tests.conversion import models
from tests.gradients import numpy
from tests.kinds import makers
from tests.old_keras import EXPORTS_FROM_JAX_AND_TORCH
from tests.oracle import error

FORMATS = {
    "tensorflow": ["tf_saved_model", "onnx", "openvino", "litert"],
    "jax": ["onnx"] * EXPORTS_FROM_JAX_AND_TORCH,
    "torch": ["openvino"] + ["onnx", "torch"] * EXPORTS_FROM_JAX_AND_TORCH,
}[keras.backend.backend()]
SUFFIXES = {"onnx": "onnx", "openvino": "xml", "litert": "tflite", "torch": "pt2"}
LAYERS = makers()
LAYERS["layer, channels"] = lambda: keras_norm.LayerNormalization(reduction_axes=-1)
LAYERS["renorm"] = lambda: keras_norm.BatchNormalization(renorm=True)
TOLERANCE = 1e-5
# jax2onnx traces open sizes in float64, which JAX has only where a user enables it.
pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")


def model(names, size):
    """Returns a model with these layers, on images of a fixed or (None) an open size."""
    inputs = keras.Input((size, size, 3), name="image")
    x = keras.layers.Conv2D(8, 1)(inputs)
    for name in names:
        x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(LAYERS[name]()(x))
    made = models.shake(keras.Model(inputs, x))
    made(models.batch(1, size or 6, size or 6, 3))
    return made


@pytest.mark.parametrize("size", [8, None], ids=["fixed size", "open size"])
@pytest.mark.parametrize("kind", FORMATS)
def test_outputs_are_equal_for_every_batch(kind, size, tmp_path):
    exported = model(LAYERS, size)
    run, operators = export(exported, kind, tmp_path)
    assert not [name for name in operators if not is_plain(name)]
    for shape in [(1, 8, 8, 3), (5, 8, 8, 3)] + [(2, 9, 7, 3)] * (size is None):
        x = models.batch(*shape)
        expected = numpy(exported(x, training=False))
        assert error(run(x), expected) < TOLERANCE


@pytest.mark.parametrize("kind", FORMATS)
def test_inference_of_batch_normalization_is_a_few_operators(kind, tmp_path):
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.ReLU()])
    normal = keras.Sequential(
        [keras.Input((8, 8, 3)), keras_norm.BatchNormalization(), keras.layers.ReLU()]
    )
    counts = []
    for built in (plain, normal):
        built(models.batch(1, 8, 8, 3))
        counts.append(len(export(built, kind, tmp_path)[1]))
    # Subtract, multiply and add, with a reshape and a cast for each operand; PyTorch's program also
    # checks every cast. Measured: 38 there, below 15 elsewhere.
    assert counts[1] - counts[0] <= 40


def export(exported, kind, folder):
    """Exports a model; returns a function that runs it, and the names of its operators."""
    path = str(folder / ".".join(filter(None, ("model", SUFFIXES.get(kind)))))
    exported.export(path, format=kind, verbose=False, **options(exported, kind))
    return globals()[f"load_{kind}"](path)


def options(exported, kind):
    if kind != "torch":
        return {}
    import torch

    sizes = {a: torch.export.Dim(f"size{a}") for a, n in enumerate(exported.input_shape) if not n}
    return {"dynamic_shapes": sizes}


def load_onnx(path):
    import onnx
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    nodes = onnx.load(path).graph.node
    return lambda x: session.run(None, {name: x})[0], [f"{n.domain}:{n.op_type}" for n in nodes]


def load_tf_saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    graph = loaded.signatures["serving_default"].graph
    operators = [operation.type for operation in graph.get_operations()]
    return lambda x: loaded.serve(x).numpy(), operators


def load_litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)

    def run(x):
        index = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(index, x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, x)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    return run, [details["op_name"] for details in interpreter._get_ops_details()]


def load_openvino(path):
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    types = [node.get_type_info() for node in core.read_model(path).get_ops()]
    return lambda x: compiled(x)[0], [f"{t.version_id}:{t.name}" for t in types]


def load_torch(path):
    import torch

    program = torch.export.load(path)
    run = program.module()
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return lambda x: run(torch.from_numpy(x)).detach().numpy(), list(map(str, targets))


def is_plain(name):
    """Returns whether an operator is the runtime's own, not of TensorFlow, Python or a plug-in."""
    if ":" in name:  # ONNX's own domain is the empty one; OpenVINO's operator sets have numbers
        return name.startswith((":", "opset"))
    return not any(word in name for word in ("Custom", "CUSTOM", "Flex", "PyFunc", "keras"))
