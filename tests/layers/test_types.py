"""Wrong calls that type checkers refuse, as the layers do at run time.

`nox -s types` checks this file: each comment must match an error of mypy, and no other may occur.
"""

from typing import assert_type

import pytest

from keras_norm import (
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    RMSNormalization,
)


def test_classes_keep_their_type():
    assert_type(BatchNormalization(), BatchNormalization)
    assert_type(GroupNormalization(), GroupNormalization)
    assert_type(InstanceNormalization(), InstanceNormalization)
    assert_type(LayerNormalization(), LayerNormalization)
    assert_type(RMSNormalization(), RMSNormalization)


def test_right_arguments():
    BatchNormalization(1, 0.9, 1e-3, beta_lr_multiplier=2, name="first", dtype="float16")
    BatchNormalization(renorm=True, renorm_clipping={"rmin": 1, "rmax": None}, center=False)
    GroupNormalization("channel-wise", gamma_initializer=[1.0, 2.0], num_channels="auto")
    InstanceNormalization(axis=1, epsilon=1e-3, scale=False, trainable=False)
    LayerNormalization([1, -1], reduction_axes=(1, 2), beta_l2_multiplier=0.5)
    RMSNormalization(center=True, gamma_offset=1, num_channels=None)


def test_names_of_arguments():
    with pytest.raises(ValueError, match="momentun"):
        BatchNormalization(momentun=0.9)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"`GroupNormalization`.*Received: groups=3"):
        InstanceNormalization(groups=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="group"):
        GroupNormalization(group=8)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="reduction_axis"):
        LayerNormalization(reduction_axis=-1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="gama_offset"):
        RMSNormalization(gama_offset=1.0)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="gama_initializer"):
        RMSNormalization(gama_initializer="zeros")  # type: ignore[call-arg]


def test_types_of_own_arguments():
    with pytest.raises(TypeError, match="momentum"):
        BatchNormalization(momentum="0.9")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="renorm_clipping"):
        BatchNormalization(renorm_clipping=3.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="groups"):
        GroupNormalization(groups=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="axis"):
        InstanceNormalization(axis=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reduction_axes"):
        LayerNormalization(reduction_axes=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gamma_offset"):
        RMSNormalization(gamma_offset="1")  # type: ignore[arg-type]


def test_types_of_shared_arguments():
    with pytest.raises(TypeError, match="center"):
        BatchNormalization(center="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gamma_lr_multiplier"):
        GroupNormalization(gamma_lr_multiplier="2")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="beta_l2_multiplier"):
        InstanceNormalization(beta_l2_multiplier=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="num_channels"):
        LayerNormalization(num_channels=[3])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="scale"):
        RMSNormalization(scale="no")  # type: ignore[arg-type]
