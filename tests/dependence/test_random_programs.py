"""Programs drawn at random: nothing moves that the verdict does not allow for.

They run an operation at a time, so that all programs share what is compiled.
"""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jlayers.dependence import judge

from .functions_across_steps import KERNEL
from .functions_of_each_step import W
from .oracle import BATCH, FEATURES, STEPS, observe

X = jax.ShapeDtypeStruct((BATCH, STEPS, FEATURES), "float32")
INDEX = jnp.array([3, 1, 1, 0])


def _forwards(h, s):
    h = jnp.tanh(0.5 * h + s)
    return h, h


def _scan(x, reverse):
    zeros = jnp.zeros((x.shape[0], x.shape[2]))
    return lax.scan(_forwards, zeros, x.swapaxes(0, 1), reverse=reverse)[1].swapaxes(0, 1)


def _conv(x, low, high, dilation=1):
    return lax.conv_general_dilated(
        x,
        KERNEL,
        (1,),
        ((low, high),),
        rhs_dilation=(dilation,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )


def _shift(x, k):
    low, high = max(k, 0), max(-k, 0)
    padded = jnp.pad(x, ((0, 0), (low, high), (0, 0)))
    return padded[:, high : high + x.shape[1]]


def _through_crop(x, k):
    return jnp.concatenate([jnp.zeros_like(x[:, :k]), jnp.sin(x[:, k:])], axis=1)


def _through_heads(x):
    b, t, d = x.shape
    return (
        jnp.cos(x.reshape(b, t, 2, 2).transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3).reshape(b, t, d)
    )


def _folded(x):
    return (x.reshape(-1, x.shape[-1]) @ W).reshape(x.shape)


# Of one value; those that are drawn more often stand more often.
STEPWISE = [
    jnp.sin,
    lambda x: x @ W * 0.3,
    lambda x: jax.nn.softmax(x, -1),
    lambda x: x[..., INDEX],
    lambda x: jnp.sort(x, -1),
    lambda x: jnp.cumsum(x, -1) * 0.3,
    lambda x: jnp.where(x > 0.2, x, 0.1),
    lambda x: x + jnp.zeros(x.shape[1])[:, None],
    _through_heads,
    _folded,
    lambda x: x - x.mean(-1, keepdims=True),
    jax.vmap(lambda row: row / (1 + jnp.abs(row).max(-1, keepdims=True))),
]
MOVING = [
    lambda x: _shift(x, 1),
    lambda x: _shift(x, 2),
    lambda x: _shift(x, -1),
    lambda x: _shift(x, -2),
    lambda x: _conv(x, 2, 0) * 0.3,
    lambda x: _conv(x, 1, 1) * 0.3,
    lambda x: _conv(x, 0, 4, 2) * 0.3,
    lambda x: _through_crop(x, 1),
]
ALL_AROUND = [
    lambda x: jnp.cumsum(x, 1) * 0.3,
    lambda x: lax.cumsum(x, 1, reverse=True) * 0.3,
    lambda x: _scan(x, False),
    lambda x: _scan(x, True),
    lambda x: x - x[:, :1],
    lambda x: jnp.roll(x, 1, 1),
    lambda x: x[:, ::-1],
    lambda x: x * x.mean(1, keepdims=True),
    lambda x: x - x.mean(0),
    lambda x: x[::-1],
    lambda x: x + jnp.arange(x.shape[1])[:, None] * 0.1,
    lambda x: x.at[:, 1].set(0.5),
    lambda x: lax.fori_loop(0, 3, lambda i, h: jnp.sin(h + _shift(h, 1)), x),
]
JOINS = [
    jnp.add,
    jnp.multiply,
    jnp.maximum,
    lambda a, b: jnp.where(a > 0, a, b),
    lambda a, b: jnp.concatenate([a, b], -1)[..., 2:6],
    lambda a, b: jnp.einsum("btd,bte->btde", a, b).sum(-1) * 0.3,
]


def program(seed):
    """A function of a few operations."""
    draw = random.Random(seed)
    plan = []
    for known in range(1, draw.randint(4, 8)):
        operations = draw.choices([STEPWISE, MOVING, ALL_AROUND, JOINS], [5, 4, 1, 3])[0]
        plan.append((draw.choice(operations), draw.randrange(known), draw.randrange(known)))

    def f(x):
        values = [x]
        for operation, first, second in plan:
            operands = (first, second) if operation in JOINS else (first,)
            values.append(operation(*(values[i] for i in operands)))
        return values[-1]

    return f


@pytest.fixture(autouse=True)
def _as_users_run_it():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


FULL = [pytest.param(seed, marks=pytest.mark.full) for seed in range(40, 400)]


@pytest.mark.parametrize("seed", [*range(40), *FULL])
def test_nothing_moves_unseen(seed):
    f = program(seed)
    found, verdict = observe(f, jit=False), judge(f, X)
    assert verdict.leads
    assert verdict.window[0] <= found.window[0]
    assert verdict.window[1] >= found.window[1]
    assert verdict.rows >= found.rows
    if verdict.kind == "each" and not verdict.rows:
        assert verdict.place >= found.moved


def test_windows_are_sharp():
    """Of programs that only move steps, most windows are what moves, and no wider."""
    sharp = 0
    for seed in range(20):
        draw = random.Random(seed)
        plan = [draw.choice([*MOVING[:4], jnp.sin]) for _ in range(3)]

        def f(x, plan=plan):
            y = x
            for operation in plan:
                y = operation(y)
            return x + y

        found, verdict = observe(f, jit=False), judge(f, X)
        assert np.isfinite(verdict.window).all()
        sharp += verdict.window == found.window
    assert sharp >= 15
