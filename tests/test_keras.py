"""The list of Keras's private names: the installed Keras has them all, and no others are used."""

import ast
import pathlib
import re

import keras
import pytest

import keras_norm
from keras_norm import _keras

# Private names of others: PyTorch's, TensorFlow's and Python's.
OTHERS = {
    *("_C", "_are_functorch_transforms_active", "_current_graph_task_id", "_current_level"),
    *("_foreach_add", "_foreach_mul", "_functorch"),
    *("_len_torch_dispatch_stack", "_buffers", "_modules"),
    *("_self_unconditional_checkpoint_dependencies", "_self_unconditional_dependency_names"),
    *("_TorchDispatchModeKey", "_get_dispatch_mode", "_forward_hooks", "_forward_pre_hooks"),
    *("_field_defaults", "_fields", "_replace", "_asdict", "_make"),
}
LISTED = (
    _keras.OPTIMIZER
    | _keras.OPTIMIZER_OF_BACKEND
    | _keras.RMSPROP
    | _keras.MUON
    | _keras.MODEL
    | _keras.MODEL_AT_TIMES
    | _keras.LAYER
    | _keras.TENSOR
)


def trees():
    root = pathlib.Path(keras_norm.__file__).parent
    return [ast.parse(path.read_text()) for path in root.rglob("*.py") if path.stem != "_keras"]


def defined(tree):
    """Names that the package itself gives: functions, classes, what is assigned and imported."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).rpartition(".")[2]
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.arg


def used(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
            yield from (a.value for a in node.args[1:2] if isinstance(a, ast.Constant))


def test_no_other_private_name_is_touched():
    own = {name for tree in trees() for name in defined(tree)}
    private = {
        name for tree in trees() for name in used(tree) if re.fullmatch(r"_[a-zA-Z]\w*", name)
    }
    assert private - own - OTHERS - LISTED.keys() == set()


def test_the_installed_keras_has_them():
    source = "".join(p.read_text() for p in pathlib.Path(keras.__file__).parent.rglob("*.py"))
    words = set(re.findall(r"\w+", source))
    # Copies leave this one out where Keras has it: from 3.14.
    assert LISTED.keys() - words <= {"_compiled_trainable_state"}
    assert all(LISTED.values())


@pytest.mark.parametrize("name", ["_nodes_by_depth", "_inbound_nodes", "_keras_mask"])
def test_a_name_that_is_gone_is_an_error_before_a_model_is_touched(name, monkeypatch):
    """As if Keras had renamed it: nothing that has no such name would be left out of a copy."""
    names = {"_nodes_by_depth": "MODEL", "_inbound_nodes": "LAYER", "_keras_mask": "TENSOR"}[name]
    listed = getattr(_keras, names) | {name + "_of_old": "renamed"}
    monkeypatch.setattr(_keras, names, listed)
    _keras.check_models.cache_clear()
    model = keras.Sequential([keras.Input((2,)), keras_norm.BatchNormalization()])
    message = f"Keras {keras.__version__}.*`{name}_of_old`.*newer"
    for walk in (keras_norm.fold_normalization, keras_norm.exclude_norms_and_biases):
        with pytest.raises(RuntimeError, match=message):
            walk(model)
    monkeypatch.undo()
    _keras.check_models.cache_clear()
    keras_norm.fold_normalization(model)
