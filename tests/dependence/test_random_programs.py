"""Programs drawn at random: nothing moves that the verdict does not allow for.

They run an operation at a time, so that all programs share what is compiled.
"""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tables.tiers import full, soak

from jlayers.base.dependence import judge

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


def _rows(x):
    return jnp.arange(x.shape[0])[:, None]


def _steps(x):
    return jnp.arange(x.shape[1])[None]


def _add_up(c, v):
    return c * 0.5 + v, c + v


def _counted(i, v):
    return i * 1.5, v * i


def _swapped(carry, i):
    a, b = carry
    return (a * 0.9, b * a + i), None


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
# What is easily taken for something else.
ODD = [
    lambda x: x[:, (jnp.arange(x.shape[1]) + 1) % x.shape[1]],
    lambda x: x[_rows(x), x.shape[1] - 1 - _steps(x)],
    lambda x: x[_rows(x), _steps(x)] * 0.5,
    lambda x: x[_rows(x), _steps(x), jnp.argmax(x, -1)][..., None] - x,
    lambda x: x.at[_rows(x), _steps(x), jnp.argmin(x, -1)].set(0.3),
    lambda x: x.at[:, jnp.arange(x.shape[1]) // 2].add(0.2),
    lambda x: jnp.zeros_like(x).at[:, jnp.arange(x.shape[1])[::-1]].set(x),
    lambda x: lax.dynamic_slice_in_dim(jnp.pad(x, ((0, 0), (0, 2), (0, 0))), 1, x.shape[1], 1),
    lambda x: lax.map(lambda v: v * v.sum(), x.reshape(-1, 4)).reshape(x.shape) * 0.2,
    lambda x: lax.scan(_add_up, jnp.zeros(x.shape[1:]), x)[1],
    lambda x: lax.scan(_add_up, x[..., 0], x.transpose(2, 0, 1))[1].transpose(1, 2, 0),
    lambda x: lax.scan(_counted, 0.1, x.swapaxes(0, 1))[1].swapaxes(0, 1),
    lambda x: lax.scan(_swapped, (0.5, x), jnp.arange(3.0))[0][1],
    lambda x: jnp.einsum("st,btd->bsd", jnp.tri(x.shape[1]), x) * 0.2,
    lambda x: jnp.einsum("btd,bsd->bts", x, x).sum(-1, keepdims=True) * 0.1 + x,
    lambda x: jnp.cumsum(x.reshape(x.shape[0], -1), 1).reshape(x.shape) * 0.2,
    lambda x: (x.reshape(x.shape[0], -1) + jnp.tile(INDEX * 0.1, x.shape[1])).reshape(x.shape),
    lambda x: (x.reshape(x.shape[0], -1) + jnp.repeat(INDEX, x.shape[1])).reshape(x.shape),
    lambda x: (x.reshape(-1, 4) * jnp.arange(x.shape[0] * x.shape[1])[:, None]).reshape(x.shape),
    lambda x: jnp.where(x.mean() > 0, x, -x),
    lambda x: jax.vmap(lambda r: jnp.where(r.mean() > 0, r, -r))(x),
    lambda x: lax.cond(x[0, 0, 0] > 0, jnp.sin, jnp.cos, x),
    lambda x: lax.while_loop(lambda h: jnp.abs(h).max() > 1, lambda h: h * 0.7, x),
    jax.vmap(lambda r: lax.while_loop(lambda h: jnp.abs(h).max() > 1, lambda h: h * 0.7, r)),
    lambda x: jnp.pad(x[:, 1:], ((0, 0), (1, 0), (0, 0))),
    lambda x: jnp.concatenate([x[:, :-1], x[:, 1:2]], 1),
    lambda x: jnp.concatenate([x[:, :2] * 0.5, x[:, 2:]], 1),
    lambda x: x / x.shape[1],
    lambda x: x * jnp.arange(x.shape[1])[-1] * 0.1,
    lambda x: x + jnp.linspace(0, 1, x.shape[0])[:, None, None],
    lambda x: lax.sort((x, jnp.broadcast_to(jnp.arange(4.0), x.shape)), dimension=2)[1],
    lambda x: lax.top_k(x.swapaxes(1, 2), 2)[0].sum(-1)[:, None] * 0.1 + x,
    lambda x: jnp.fft.fft(x, axis=1).real * 0.2,
    lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 1), (1, 1, 1), "SAME"),
    lambda x: lax.reduce_window(x, 0.0, lax.add, (2, 1, 1), (1, 1, 1), "SAME"),
    lambda x: jax.vmap(lambda s: jnp.cumsum(s, 1), in_axes=2, out_axes=2)(x) * 0.2,
    lambda x: x.swapaxes(0, 1).reshape(x.shape[0], x.shape[1], 4),
    lambda x: lax.fori_loop(0, x.shape[1], lambda i, h: h.at[:, i].multiply(0.5), x),
    lambda x: lax.fori_loop(1, x.shape[1], lambda i, h: h.at[:, i].add(h[:, i - 1] * 0.3), x),
    lambda x: jnp.stack([x, x[:, ::-1]], 0).max(0),
    lambda x: x * jax.random.uniform(jax.random.key(0), x.shape[1:2])[:, None],
]
JOINS = [
    jnp.add,
    jnp.multiply,
    jnp.maximum,
    lambda a, b: jnp.where(a > 0, a, b),
    lambda a, b: jnp.concatenate([a, b], -1)[..., 2:6],
    lambda a, b: jnp.einsum("btd,bte->btde", a, b).sum(-1) * 0.3,
]


POOLS = [STEPWISE, MOVING, ALL_AROUND, ODD, JOINS]


def program(seed):
    """A function of a few operations."""
    draw = random.Random(seed)
    plan = []
    for known in range(1, draw.randint(4, 8)):
        operations = draw.choices(POOLS, [5, 4, 1, 2, 3])[0]
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


@pytest.mark.parametrize("seed", [*range(10), *full(*range(10, 100)), *soak(*range(100, 400))])
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
