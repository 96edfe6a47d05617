"""The count of what XLA's programs move."""

import keras
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("the programs are those of JAX", allow_module_level=True)

from benchmarks import xla

PROGRAM = """
%fused (p: f32[8,4]) -> f32[4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %r = f32[4]{0} reduce(%p, %c), dimensions={0}
}

%near (p.1: f32[8,4]) -> f32[4] {
  %p.1 = f32[8,4]{1,0} parameter(0)
  ROOT %f.1 = f32[4]{0} fusion(%p.1), kind=kInput, calls=%fused
}

%far (p.2: f32[8,4]) -> f32[4] {
  %p.2 = f32[8,4]{1,0} parameter(0)
  %c.1 = bf16[8,4]{1,0} convert(%p.2)
  ROOT %f.2 = f32[4]{0} fusion(%c.1), kind=kInput, calls=%fused
}

ENTRY %main (x: f32[8,4], i: pred[]) -> (f32[4]) {
  %x = f32[8,4]{1,0} parameter(0)
  %i = pred[] parameter(1)
  %b = f32[32]{0} bitcast(%x)
  %k = f32[4]{0} conditional(%i, %x, %x), true_computation=%near, false_computation=%far
  %m = f32[8,4]{1,0} fusion(%x, %x, %k), kind=kLoop, calls=%fused
  ROOT %t = (f32[4]{0}) tuple(%k)
}
"""


def test_bytes_and_kernels_of_a_program():
    far = (128 + 64) + (64 + 16)
    # What a kernel takes twice counts once.
    assert xla.moved(PROGRAM) == (far + 128 + 16 + 128, 3)


def test_programs_of_steps_are_read():
    pytest.importorskip("flax")
    from benchmarks import on_jax, rows

    row = rows.tiny(rows.MASKED_ROWS[0])
    for step in ("training", "inference"):
        text = xla.program(on_jax, row, row.ours, True, step)
        assert xla.stablehlo(text).operation.verify()
