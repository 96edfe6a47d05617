import pytest

from keras_norm.optimizers import maps

PATHS = ["model/dense/kernel", "model/dense/bias", "model/dense_1/kernel", "nested/dense/kernel"]


def test_a_pattern_is_a_path_or_matches_all_of_it():
    mapping = {"model/dense/bias": 2.0, ".*/kernel": 0.5}
    found = maps.match("lr_multipliers", mapping, PATHS)
    assert [mapping[pattern] for pattern in found] == [0.5, 2.0, 0.5, 0.5]
    # "model/dense" is the beginning of three paths, and all of none.
    with pytest.raises(ValueError, match=r"'model/dense' of `lr_multipliers` matches none of"):
        maps.match("lr_multipliers", {"model/dense": 2.0}, PATHS)


def test_paths_that_are_the_same_have_the_same_multiplier():
    found = maps.match("lr_multipliers", {"a/b": 2.0}, ["a/b", "c", "a/b"])
    assert found == ["a/b", None, "a/b"]


def test_a_path_is_taken_as_it_is():
    assert maps.match("lr_multipliers", {"a+b/kernel": 2.0}, ["a+b/kernel"]) == ["a+b/kernel"]


def test_a_pattern_that_matches_nothing_is_told_the_closest_paths():
    with pytest.raises(ValueError, match=r"closest paths are: 'model/dense_1/kernel', "):
        maps.match("lr_multipliers", {"model/dense_1/kernal": 2.0}, PATHS)


def test_two_patterns_for_one_variable_are_both_named():
    mapping = {"model/dense/.*": 1.0, ".*/kernel": 2.0}
    with pytest.raises(ValueError, match=r"'model/dense/kernel': 'model/dense/\.\*' and '\.\*/ke"):
        maps.match("l2_multipliers", mapping, PATHS)


def test_no_map_is_an_empty_one():
    assert maps.checked_map("lr_multipliers", None) == {}
    assert maps.match("lr_multipliers", {}, PATHS) == [None] * 4


@pytest.mark.parametrize(
    ("mapping", "error", "message"),
    [
        ([("a", 1.0)], TypeError, "must be a dictionary.*Received: lr_multipliers="),
        ({3: 1.0}, TypeError, "keys of `lr_multipliers` must be strings.*Received: 3"),
        ({"a(b": 1.0}, ValueError, r"'a\(b' of `lr_multipliers` is not a regular exp.*escape"),
        ({"a": -1.0}, ValueError, r"`lr_multipliers\['a'\]` must be a finite number >= 0"),
        ({"a": float("nan")}, ValueError, "Received: .*nan"),
        ({"a": "2"}, TypeError, "Received: .*'2'"),
        ({"a": None}, TypeError, "Received: .*None"),
    ],
)
def test_bad_maps(mapping, error, message):
    with pytest.raises(error, match=message):
        maps.checked_map("lr_multipliers", mapping)
