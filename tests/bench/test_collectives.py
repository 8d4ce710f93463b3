"""What a program sends between devices, read from the text of its HLO."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bench.collectives import Traffic, collectives

# As XLA for TPU writes it, shortened: layouts with brackets, tuples with comments, a loop that does
# not note how often it turns, and pairs of a start and an end.
TPU = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%body (in: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %in = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)S(1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%in), index=0
  %x = f32[4,8]{1,0:T(4,128)S(1)} get-tuple-element(%in), index=1
  %y = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} convert(%x)
  %both = (f32[4,8]{1,0:T(4,128)}, /*index=1*/bf16[4,8]{1,0:T(8,128)(2,1)}) all-reduce(%x, %y)
  ROOT %out = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)S(1)}) tuple(%i, %x)
}

%condition (at: (s32[], f32[4,8])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(12)
  %at = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)S(1)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%at), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %constant.7), direction=LT
}

%scattered (z: f32[16,8]) -> f32[4,8] {
  %z = f32[16,8]{1,0:T(8,128)} parameter(0)
  ROOT %part = f32[4,8]{1,0:T(4,128)} reduce-scatter(%z), dimensions={0}, to_apply=%add
}

ENTRY %main.9_spmd (param: f32[4,8]) -> f32[4,8] {
  %param = f32[4,8]{1,0:T(4,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)S(1)}) tuple(%zero, %param)
  %loop = (s32[], f32[4,8]{1,0:T(4,128)}) while(%start), condition=%condition, body=%body
  %ags = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%param), dimensions={0}
  %agd = f32[16,8]{1,0} all-gather-done(%ags)
  %rss = ((f32[16,8]{1,0}), f32[4,8]{1,0}, u32[]{:S(2)}) async-start(%agd), calls=%scattered
  %rsd = f32[4,8]{1,0} async-done(%rss), calls=%scattered
  ROOT %cp = pred[4,8]{1,0} collective-permute(%rsd), source_target_pairs={{0,1}}
}
"""


def test_loops_tuples_and_pairs_are_counted():
    assert collectives(TPU) == {
        "all-gather": Traffic(1, 16 * 8 * 4),
        "all-reduce": Traffic(12, 12 * 4 * 8 * (4 + 2)),
        "collective-permute": Traffic(1, 4 * 8 * 4),
        "reduce-scatter": Traffic(1, 16 * 8 * 4),
    }


def test_a_loop_of_unknown_length_is_an_error():
    unknown = TPU.replace("constant(12)", "parameter(1)")
    with pytest.raises(ValueError, match=r"the loop loop must say how often it turns.*\n.*while"):
        collectives(unknown)


def test_a_program_of_this_version_is_read():
    chips = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    columns = NamedSharding(chips, PartitionSpec(None, "data"))

    def run(x):
        # A sum over what is spread, at every turn.
        return jax.lax.scan(lambda x, _: (x * jnp.sum(x, 1, keepdims=True), None), x, length=3)[0]

    x = jax.ShapeDtypeStruct((5, 4), jnp.float32, sharding=columns)
    program = jax.jit(run, out_shardings=columns).lower(x).compile()
    assert collectives(program.as_text()) == {"all-reduce": Traffic(3, 3 * 5 * 4)}
