"""What is chosen on a TPU, and what ``method=`` may be there."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec
from tables.instances import INSTANCES

import jlayers as jl

from .programs import compiled, mesh, placed

pytestmark = [pytest.mark.tpu, pytest.mark.optimised]

# On accelerators every operation is XLA's own. Recurrences remake their gates by the rule of a CPU.
CHOSEN = {
    "attention": {"direct"},
    "avg_pool": {"direct"},
    "cell": {"store"},
    "conv": {"direct"},
    "conv_lstm": {"store"},
    "conv_transpose": {"direct"},
    "gru": {"store", "recompute"},
    "lstm": {"store", "recompute"},
    "max_pool": {"direct"},
    "min_gru": {"store"},
    "simple_rnn": {"store", "recompute"},
}


def test_choices():
    decisions = [
        decision
        for row in INSTANCES.values()
        for decision in jl.explain(row.layer, row.x, platform="tpu").decisions
        if "method" not in decision.reason
    ]
    assert {decision.operation for decision in decisions} == set(CHOSEN)
    for decision in decisions:
        assert decision.method in CHOSEN[decision.operation], decision


def conv(*shapes, padding="SAME", **options):
    rank = len(shapes[0]) - 2
    options = {"strides": (1,) * rank, "dilation": (1,) * rank, "padding": padding, **options}
    return partial(jl.core.conv, **options), shapes


IMAGE = (4, 14, 14, 32)
HEADS = (4, 256, 4, 64)
TRANSPOSE = {"strides": (2, 2), "padding": "SAME", "dilation": (1, 1)}
POOL = {"window_shape": (3, 3), "strides": (2, 2), "padding": "SAME"}
RNN = ((4, 20, 16), (4, 32), (16, 32), (32, 32))


def rnn(x, h, *kernels, **options):
    return jl.core.simple_rnn(x, (h,), *kernels, **options)[0]


# The operation with its options, and the shapes of its arrays.
METHODS = {
    "conv direct": conv(IMAGE, (3, 3, 32, 64)),
    "conv matmul": conv(IMAGE, (1, 1, 32, 64)),
    "conv patches": conv(IMAGE, (3, 3, 32, 64)),
    "conv shifted": conv(IMAGE, (3, 3, 1, 32), groups=32),
    "conv blocks": conv(IMAGE, (3, 3, 8, 64), groups=4),
    "conv planes": conv((4, 6, 6, 6, 8), (3, 3, 3, 8, 16)),
    "conv_transpose direct": (partial(jl.core.conv_transpose, **TRANSPOSE), (IMAGE, (4, 4, 32, 8))),
    "conv_transpose phases": (partial(jl.core.conv_transpose, **TRANSPOSE), (IMAGE, (4, 4, 32, 8))),
    "max_pool direct": (partial(jl.core.max_pool, **POOL), (IMAGE,)),
    "max_pool axes": (partial(jl.core.max_pool, **POOL), (IMAGE,)),
    "attention direct": (partial(jl.core.attention, causal=True), (HEADS,) * 3),
    "attention blocks": (partial(jl.core.attention, causal=True), (HEADS,) * 3),
    "attention cudnn": (partial(jl.core.attention, causal=True), (HEADS,) * 3),
    "simple_rnn store": (rnn, RNN),
    "simple_rnn recompute": (rnn, RNN),
}
# What cannot be compiled, with the reason.
LIMITS = {"attention cudnn": "a kernel for NVIDIA's GPUs"}


def row(name):
    limit = LIMITS.get(name)
    marks = [pytest.mark.xfail(raises=RuntimeError, reason=limit)] if limit else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [row(name) for name in METHODS])
def test_method(name, report):
    """On one chip, since not every method keeps the rows of a batch apart."""
    (operation, shapes), method = METHODS[name], name.split()[-1]
    dtype = jnp.bfloat16 if method == "cudnn" else jnp.float32
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    chip = mesh("2x2", data=4).devices[:1]
    arrays = placed(jax.sharding.Mesh(chip, ("data",)), arrays, PartitionSpec())

    def loss(arrays):
        return jnp.sum(operation(*arrays, method=method).astype(jnp.float32) ** 2)

    report(compiled(f"core.{name}, gradient", jax.value_and_grad(loss), arrays))
