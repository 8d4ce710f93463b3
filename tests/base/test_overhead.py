"""What a layer costs: nothing in the compiled program, and little in tracing."""

import jax
import jax.numpy as jnp
import pytest

import jlayers as jl
from bench.foundation import MODEL, by_hand
from bench.hlo import hlo_text


@pytest.mark.optimised
def test_a_compiled_mlp_is_the_hand_written_program():
    x = jl.spec((32, 784))
    params, state = jax.eval_shape(MODEL.init, jax.random.key(0), x)
    ours = jax.jit(MODEL.apply).lower(params, state, x).compile()
    with jax.numpy_rank_promotion("allow"):
        theirs = jax.jit(by_hand).lower(params, x).compile()
        other = jax.jit(lambda p, x: by_hand(p, x) + 1).lower(params, x).compile()
    assert hlo_text(ours) == hlo_text(theirs)
    assert hlo_text(other) != hlo_text(theirs)


@pytest.mark.parametrize(
    ("nest", "depth"),
    [(jl.serial, 30), (jl.residual, 30), (jl.remat, 8), (lambda layer: jl.repeat(layer, 2), 8)],
    ids=["serial", "residual", "remat", "repeat"],
)
def test_each_leaf_is_traced_once_by_init_however_deep(nest, depth):
    traced = 0

    def leaf(x):
        nonlocal traced
        traced += 1
        return x

    model = leaf
    for _ in range(depth):
        model = nest(model)
    x = jl.spec((2, 4))
    jax.eval_shape(model.init, jax.random.key(0), x)
    assert traced == 1
    jax.jit(model.apply).lower({}, {}, jnp.ones((2, 4)))
    by_jit = traced - 1
    assert by_jit <= 2  # lax.scan may trace its body twice
    jl.out_spec(model, x)
    jl.summary(jl.serial(model), x)
    model.init(jax.random.key(0), x)
    assert traced <= 1 + 2 * by_jit + 2  # a summary counts the leaf, and the whole


def test_init_does_no_forward_flops():
    model = jl.serial(*[jl.Conv(64, 3, padding="SAME") for _ in range(8)], jl.Flatten())
    x = jl.spec((8, 64, 64, 64))
    params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    made = jl.flops(model.init, jax.random.key(0), x)
    assert made < 100 * numbers < jl.summary(model, x).flops / 100


def test_a_state_of_nothing_costs_nothing():
    apply = jl.Dense(4).apply
    params = {"kernel": jl.spec((3, 4)), "bias": jl.spec((4,))}
    lowered = jax.jit(apply).lower(params, {}, jl.spec((2, 3)))
    assert len(jax.tree.leaves(lowered.in_avals)) == 3
    assert len(jax.tree.leaves(lowered.out_info)) == 1
