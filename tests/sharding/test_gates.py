"""Gates under ``tensor_parallel``: a device computes its units, and asks for nothing but ``h``."""

import jax
import jax.numpy as jnp
import optax
import pytest
from tables.tiers import full

import jlayers as jl
from jlayers import sharding, training

H = 16
MESH = jax.make_mesh((4,), ("model",))
# For each step: h is gathered in the forward pass, and its gradient summed in the backward pass.
LAYERS = [
    (jl.LSTM(H), 2),
    (jl.GRU(H), 2),
    *full(
        (jl.SimpleRNN(H), 2),
        (jl.MGU(H, reverse=True), 2),
        (jl.bidirectional(jl.LSTM(H)), 4),
        # A head reads no other.
        (jl.SLSTM(H, num_heads=4), 0),
        # Nothing but the input reaches the gates.
        (jl.MinLSTM(H), 0),
        (jl.LinearRecurrence(H), 0),
    ),
]


def sent(layer, rules, steps, mesh=MESH):
    """How many collectives a step of training has for so many steps in time, and their bytes."""
    step = training.train_step(layer, jnp.mean, optax.sgd(0.1), mesh=mesh, rules=rules)
    found = sharding.plan(step, (jl.spec((4, steps, 8)),)).compiled.traffic
    assert not found.loops_unknown
    return sum(found.collectives.values()), sum(found.bytes.values())


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: repr(case[0]))
def test_a_step_in_time_sends_what_one_gate_would(case):
    layer, expected = case
    rules = sharding.tensor_parallel("model")
    (few, _), (many, _) = (sent(layer, rules, steps) for steps in (8, 16))
    assert many - few == 8 * expected


def test_fsdp_gathers_kernels_and_nothing_in_a_loop():
    mesh = jax.make_mesh((4,), ("data",))
    rules = sharding.fsdp("data", least=0)
    counts = {sent(jl.LSTM(H), rules, steps, mesh)[0] for steps in (8, 16)}
    assert len(counts) == 1


def test_gates_are_whole_in_storage():
    """Names and shapes are those of one device: only the program sees gates apart."""
    layout = sharding.tensor_parallel("model").layout(jl.LSTM(H), jl.spec((4, 8, 8)), MESH)
    assert layout.placed["recurrent_kernel"].shape == (H, 4 * H)
    assert layout.placed["recurrent_kernel"].spec == jax.P(None, "model")
    heads = sharding.tensor_parallel("model").layout(
        jl.SLSTM(H, num_heads=4), jl.spec((4, 8, 8)), MESH
    )
    assert heads.placed["recurrent_kernel"].spec == jax.P("model")
