"""What a program sends and computes, read from its text: XLA's own figures, loops included."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from tables.tiers import full

from jlayers.sharding.collectives import traffic

# As XLA for TPU writes it, shortened: a loop whose length is in its condition, a gather that runs
# beside other operations, in three fusions, a reduce-scatter as a fusion, and counters in a start.
TPU = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%started (p.0: f32[4,8]) -> (f32[4,8], f32[16,8]) {
  %p.0 = f32[4,8]{1,0:T(4,128)} parameter(0)
  %g.0 = f32[16,8]{1,0} all-gather(%p.0), channel_id=3, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %c.0 = (f32[4,8]{1,0}, f32[16,8]{1,0}) custom-call(%p.0, %g.0), custom_call_target="Start"
}

%beside (p.1: f32[4,8]) -> f32[16,16] {
  %p.1 = f32[4,8]{1,0:T(4,128)} parameter(0)
  %x.1 = f32[16,8]{1,0:T(4,128)} parameter(1)
  %g.1 = f32[16,8]{1,0} all-gather(%p.1), channel_id=3, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %y.1 = f32[16,16]{1,0} convolution(%x.1, %x.1), dim_labels=bf_oi->bf
}

%all-reduce-scatter.1 (p.2: f32[16,8]) -> f32[4,8] {
  %p.2 = f32[16,8]{1,0:T(4,128)} parameter(0)
  %r.2 = f32[16,8]{1,0} all-reduce(%p.2), channel_id=4, to_apply=%add
  ROOT %s.2 = f32[4,8]{1,0} dynamic-slice(%r.2, %i, %j), dynamic_slice_sizes={4,8}
}

%body (in: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %in = (s32[]{:T(128)}, /*index=1*/f32[4,8]{1,0:T(4,128)S(1)}) parameter(0)
  %x = f32[4,8]{1,0:T(4,128)S(1)} get-tuple-element(%in), index=1
  %f.0 = (f32[4,8]{1,0}, f32[16,8]{1,0}) fusion(%x), kind=kCustom, calls=%started
  %f.1 = f32[16,16]{1,0} fusion(%x), kind=kOutput, calls=%beside
  %f.2 = f32[4,8]{1,0} fusion(%f.1), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %out = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)S(1)}) tuple(%i, %f.2)
}

%condition (at: (s32[], f32[4,8])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(12)
  %at = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)S(1)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%at), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %constant.7), direction=LT
}

ENTRY %main.9_spmd (param: f32[4,8]) -> f32[4,8] {
  %param = f32[4,8]{1,0:T(4,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %start = (s32[]{:T(128)}, f32[4,8]{1,0:T(4,128)S(1)}) tuple(%zero, %param)
  %loop = (s32[], f32[4,8]{1,0:T(4,128)}) while(%start), condition=%condition, body=%body
  %cps = (f32[4,8]{1,0}, f32[4,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%param)
  ROOT %cpd = f32[4,8]{1,0} collective-permute-done(%cps)
}
"""  # noqa: E501 a line of XLA's is a line


def test_the_text_of_a_tpu():
    found = traffic(TPU)
    small, large = 4 * 4 * 8, 4 * 16 * 8
    assert found.collectives == {"all-gather": 12, "reduce-scatter": 12, "collective-permute": 1}
    assert found.bytes == {
        "all-gather": 12 * large,
        "reduce-scatter": 12 * small,
        "collective-permute": small,
    }
    assert found.flops == 12 * 2 * 16 * 16 * 8
    assert not found.loops_unknown


def test_a_loop_that_takes_two_steps_at_once():
    """As XLA unrolls the loop of a product and the gather of its operand."""
    twice = TPU.replace(
        "  %x = f32[4,8]{1,0:T(4,128)S(1)} get-tuple-element(%in), index=1",
        "  %i = s32[]{:T(128)} get-tuple-element(%in), index=0\n"
        "  %two = s32[]{:T(128)} constant(2)\n"
        "  %next = s32[]{:T(128)} add(%i, %two)\n"
        "  %x = f32[4,8]{1,0:T(4,128)S(1)} get-tuple-element(%in), index=1",
    ).replace("tuple(%i, %f.2)", "tuple(%next, %f.2)")
    assert traffic(twice).collectives["all-gather"] == 6


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    found = traffic(TPU.replace("constant(12)", "parameter(1)"))
    assert found.loops_unknown
    assert found.collectives["all-gather"] == 1


# strides, padding, dilation of the input, dilation of the kernel, groups
WINDOWS = [
    ((2, 1), ((1, 2), (0, 0)), (1, 1), (1, 1), 1),
    *full(
        ((1, 1), ((0, 0), (2, 2)), (2, 3), (1, 1), 1),
        ((1, 2), ((3, 3), (1, 1)), (1, 1), (2, 2), 2),
        ((1, 1), ((-1, 0), (0, -1)), (1, 1), (1, 1), 1),
    ),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_products_of_convolutions_are_those_that_xla_counts(window):
    strides, padding, spread, dilation, groups = window

    def conv(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        how = {"lhs_dilation": spread, "rhs_dilation": dilation, "dimension_numbers": layout}
        return lax.conv_general_dilated(
            x, kernel, strides, padding, feature_group_count=groups, **how
        )

    x, kernel = jnp.ones((2, 9, 8, 4)), jnp.ones((3, 2, 4 // groups, 6))
    program = jax.jit(conv).lower(x, kernel).compile()
    assert traffic(program.as_text()).flops == program.cost_analysis()["flops"]
