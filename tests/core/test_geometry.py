"""Convolutions and pools of every geometry against NumPy loops: values and all gradients.

Nor is XLA ever given a negative low padding, in no derivative up to the second: XLA for CPU then
reads memory that was never written (openxla/xla#48713).
"""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import windows
from tables.tiers import full, named, sample

from jlayers import core
from jlayers.core.conv.transpose import transposed_padding
from jlayers.testing.purity import equations

pytestmark = pytest.mark.optimised(full=True)

# (spatial, kernel), and what is not the default
CONVS = {
    "padding beyond the kernel": ((7,), (2, 8, 8), {"padding": [(2, 0)]}),
    "padding beyond the kernel, both sides": ((7,), (4, 3, 8), {"padding": [(5, 6)]}),
    "padding beyond the kernel, 2-D": ((4, 5), (3, 3, 8, 8), {"padding": [(4, 1), (4, 0)]}),
    "padding beyond a dilated kernel, strides": (
        (6, 5),
        (2, 3, 3, 4),
        {"padding": [(5, 3), (1, 9)], "strides": (2, 3), "dilation": (3, 2)},
    ),
    "one pixel": ((1, 1), (3, 3, 2, 4), {"padding": [(1, 1), (1, 1)]}),
    "one output, pixels that no window reads": ((6,), (3, 2, 4), {"strides": (5,)}),
    "a kernel of one element": ((4, 3), (1, 1, 3, 4), {"padding": [(2, 1), (0, 3)]}),
    "depthwise": ((5, 4), (3, 2, 1, 6), {"padding": [(4, 0), (0, 5)], "groups": 3}),
    "groups": ((5, 4), (3, 2, 2, 6), {"padding": [(4, 0), (2, 5)], "groups": 3}),
    "3-D": ((3, 4, 2), (2, 1, 2, 2, 3), {"padding": [(2, 3), (1, 0), (4, 0)]}),
    "cropped": ((7, 6), (2, 2, 8, 8), {"padding": [(-2, 1), (1, -3)]}),
}
TRANSPOSED = {
    "padding beyond the kernel": ((4,), (2, 8, 8), {"padding": [(3, 4)], "strides": (2,)}),
    "strides beyond the kernel": ((3, 4), (2, 1, 3, 8), {"padding": "SAME", "strides": (3, 2)}),
    "no padding": ((4, 5), (3, 4, 8, 8), {"strides": (2, 3)}),
    "one pixel": ((1, 1), (3, 3, 2, 4), {"padding": [(1, 1), (1, 1)], "strides": (2, 2)}),
    "groups": ((3, 4), (3, 2, 2, 6), {"padding": [(5, 0), (2, 4)], "groups": 3, "strides": (2, 1)}),
    "3-D": (
        (2, 3, 2),
        (2, 1, 2, 2, 3),
        {"padding": [(4, 3), (0, 1), (2, 2)], "strides": (2, 1, 3)},
    ),
}


def _random_case(seed, transposed):
    draw = random.Random(seed)
    rank = draw.choice([1, 1, 2, 2, 3])
    size = [draw.choice([1, 2, 3, 4] if rank < 3 else [1, 2, 3]) for _ in range(rank)]
    groups = draw.choice([1, 1, 1, 2, 3])
    inputs, features = draw.choice([1, 2, 8]), draw.choice([1, 3, 8])
    spatial = [draw.randrange(1, 6) for _ in size]
    how = {
        "strides": tuple(draw.choice([1, 1, 2, 3]) for _ in size),
        "dilation": tuple(draw.choice([1, 1, 2, 3]) for _ in size),
        "groups": groups,
    }
    pads = []
    for n, k, s, d in zip(spatial, size, how["strides"], how["dilation"], strict=True):
        extent = d * (k - 1) + 1
        low, high = (draw.randrange(extent + 4) for _ in range(2))
        n = (n - 1) * s + 1 if transposed else n
        pads.append((low, max(high, extent - n - low)))
    return tuple(spatial), (*size, inputs, groups * features), how | {"padding": pads}


def _check_conv(run, by_loops, case):
    spatial, shape, options = case
    rank = len(spatial)
    how = {
        "strides": (1,) * rank,
        "dilation": (1,) * rank,
        "padding": [(0, 0)] * rank,
        "groups": 1,
    } | options
    numbers = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(numbers.normal(size=shape), jnp.float32)  # noqa: E731
    x, kernel = draw(2, *spatial, shape[-2] * how["groups"]), draw(*shape)
    method = how.pop("method", None)
    f = lambda x, kernel: run(x, kernel, **how, method=method)  # noqa: E731
    ct = draw(*jax.eval_shape(f, x, kernel).shape)

    @jax.jit
    def value_and_gradients(x, kernel, ct):
        y, pull = jax.vjp(f, x, kernel)
        return y, *pull(ct)

    if how["padding"] == "SAME":
        extents = [d * (k - 1) + 1 for k, d in zip(shape, how["dilation"], strict=False)]
        how["padding"] = [
            transposed_padding(extent, stride, "SAME")
            for extent, stride in zip(extents, how["strides"], strict=True)
        ]
    expected = by_loops(x, kernel, ct, **how)
    for got, wanted in zip(value_and_gradients(x, kernel, ct), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)

    def second(x, kernel, ct):
        return jax.vjp(value_and_gradients, x, kernel, ct)[1]((f(x, kernel), x, kernel))

    _check_no_negative_padding(jax.make_jaxpr(second)(x, kernel, ct))


def _check_no_negative_padding(jaxpr):
    for equation in equations(jaxpr):
        padding = equation.params.get("padding", ())
        if equation.primitive.name == "conv_general_dilated":
            assert all(low >= 0 for low, _ in padding), equation
        elif equation.primitive.name.startswith("reduce_window"):
            assert all(low >= 0 and high >= 0 for low, high in padding), equation


@pytest.mark.parametrize(
    "name",
    named(
        CONVS,
        "padding beyond the kernel",
        "padding beyond a dilated kernel, strides",
        "one pixel",
        "groups",
        "3-D",
    ),
)
def test_conv(name):
    _check_conv(core.conv, windows.conv, CONVS[name])


@pytest.mark.parametrize("name", named(TRANSPOSED, "padding beyond the kernel", "groups"))
def test_conv_transpose(name):
    _check_conv(core.conv_transpose, windows.conv_transpose, TRANSPOSED[name])


@pytest.mark.parametrize("seed", full(*range(60)))
def test_random_convs(seed):
    _check_conv(core.conv, windows.conv, _random_case(seed, False))


@pytest.mark.parametrize("seed", full(*range(60)))
def test_random_transposed_convs(seed):
    _check_conv(core.conv_transpose, windows.conv_transpose, _random_case(seed, True))


@pytest.mark.parametrize("seed", sample(range(40), 0, 1, 2))
@pytest.mark.parametrize("operation", ["max_pool", "avg_pool"])
def test_random_pools(operation, seed):
    """Any padding, also windows of padding alone; every other seed by XLA's own windows."""
    draw = random.Random(seed)
    rank = draw.choice([1, 1, 2, 2, 3])
    size = tuple(draw.choice([1, 2, 3, 4]) for _ in range(rank))
    spatial = [draw.randrange(1, 6) for _ in size]
    low = [draw.randrange(k + 3) for k in size]
    how = {
        "window_shape": size,
        "strides": tuple(draw.choice([1, 1, 2, 3]) for _ in size),
        "padding": [
            (a, max(draw.randrange(k + 3), k - n - a))
            for n, k, a in zip(spatial, size, low, strict=True)
        ],
    }
    if operation == "avg_pool":
        how["count_include_pad"] = draw.random() < 0.5
    x = jnp.asarray(np.random.default_rng(seed).normal(size=(2, *spatial, 3)), jnp.float32)
    method = [None, "direct"][seed % 2]
    f = lambda x: getattr(core, operation)(x, **how, method=method)  # noqa: E731
    ct = jnp.broadcast_to(jnp.arange(1.0, 4.0), jax.eval_shape(f, x).shape)

    @jax.jit
    def value_and_gradient(x, ct):
        y, pull = jax.vjp(f, x)
        return y, *pull(ct)

    expected = windows.pool(x, ct, operation == "avg_pool", **how)
    for got, wanted in zip(value_and_gradient(x, ct), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    _check_no_negative_padding(jax.make_jaxpr(value_and_gradient)(x, ct))
