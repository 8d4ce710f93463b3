"""Haiku's layers with the same arrays: gates in other orders, a forget bias in the forward pass."""

import haiku as hk
import jax
import numpy as np
import pytest
from oracles.convert import lenient

import jlayers as jl

RANDOM = np.random.default_rng(0)


def draw(*shape):
    return RANDOM.standard_normal(shape).astype("float32")


def over(cell):
    def run(x):
        core = cell()
        return hk.dynamic_unroll(core, x, core.initial_state(x.shape[0]), time_major=False)[0]

    return run


def attended(x):
    return hk.MultiHeadAttention(2, 3, w_init=hk.initializers.VarianceScaling())(x, x, x)


def normed(x):
    x = hk.BatchNorm(True, True, 0.9, eps=1e-5)(x, is_training=hk.running_init())
    return hk.LayerNorm(-1, True, True)(x)


STEPS, IMAGE = draw(2, 5, 3), draw(2, 6, 5, 4)
ROWS = {
    "dense": (lambda x: hk.Linear(4)(hk.Linear(3)(x)), jl.serial(jl.Dense(3), jl.Dense(4)), STEPS),
    "conv": (lambda x: hk.Conv2D(6, 3)(x), jl.Conv(6, 3, padding="SAME"), IMAGE),
    "conv transpose": (
        lambda x: hk.Conv2DTranspose(6, 3, stride=2)(x),
        jl.ConvTranspose(6, 3, strides=2, padding="SAME"),
        IMAGE,
    ),
    "norms": (normed, jl.serial(jl.BatchNorm(), jl.LayerNorm()), STEPS),
    "LSTM": (over(lambda: hk.LSTM(4)), jl.LSTM(4), STEPS),
    "GRU": (over(lambda: hk.GRU(4)), jl.GRU(4, reset_after=False), STEPS),
    "RNN": (over(lambda: hk.VanillaRNN(4)), jl.SimpleRNN(4, activation=jax.nn.relu), STEPS),
    "attention": (attended, jl.SelfAttention(2, head_dim=3, features=6, bias=True), STEPS),
    "embedding": (lambda x: hk.Embed(7, 3)(x), jl.Embedding(7, 3), np.arange(6).reshape(2, 3)),
}


@pytest.mark.oracle("Haiku")
@pytest.mark.parametrize("row", ROWS)
def test_haiku(row):
    theirs, ours, x = ROWS[row]
    module = hk.without_apply_rng(hk.transform_with_state(theirs))
    with lenient():
        params, state = module.init(jax.random.key(0), x)
        drawn = jax.tree.map(lambda leaf: abs(draw(*leaf.shape)), (params, state))
        params, state = jax.tree.map(
            lambda leaf, new: new.astype(leaf.dtype), (params, state), drawn
        )
        want, _ = module.apply(params, state, x)
    arrays = {
        f"{name}/{key}": array
        for tree in (params, state)
        for name, group in tree.items()
        for key, array in group.items()
    }
    plan = jl.interop.match(ours, x, arrays, library="haiku")
    y, _ = jax.jit(ours.apply)(*plan.load(), x)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
