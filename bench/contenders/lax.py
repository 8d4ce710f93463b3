"""Written by hand on ``jax.lax``, as one does without a layer library."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..ops.conv import geometry, separable_parts, transposed_geometry
from ..ops.norm import EPSILON
from ..ops.pool import window
from ..row import Row
from .contender import Contender, chain, no_weights, pick, stacked

LACKS: dict[str, str] = {}
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
WITH_BIAS = pick("kernel", "bias")


def conv(row: Row) -> Contender:
    g = geometry(row)

    def apply(params: Any, x: Any) -> Any:
        y = lax.conv_general_dilated(
            x,
            params["kernel"],
            g.strides,
            g.pairs,
            rhs_dilation=g.dilation,
            dimension_numbers=LAYOUTS[g.rank],
            feature_group_count=g.groups,
        )
        return y + params["bias"] if g.bias else y

    return Contender(apply, WITH_BIAS)


def conv_transpose(row: Row) -> Contender:
    g = transposed_geometry(row)

    def apply(params: Any, x: Any) -> Any:
        layout = LAYOUTS[g.rank]
        y = lax.conv_transpose(
            x, params["kernel"], g.strides, row["padding"], dimension_numbers=layout
        )
        return y + params["bias"]

    return Contender(apply, WITH_BIAS)


def dense(row: Row) -> Contender:
    return Contender(lambda params, x: x @ params["kernel"] + params["bias"], WITH_BIAS)


def max_pool(row: Row) -> Contender:
    w = window(row)
    sizes, strides, pads = (1, *w.window, 1), (1, *w.strides, 1), ((0, 0), *w.pairs, (0, 0))

    def apply(params: Any, x: Any) -> Any:
        return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, pads)

    return Contender(apply, no_weights)


def avg_pool(row: Row) -> Contender:
    w = window(row)
    sizes, strides, pads = (1, *w.window, 1), (1, *w.strides, 1), ((0, 0), *w.pairs, (0, 0))

    def apply(params: Any, x: Any) -> Any:
        total = lax.reduce_window(x, 0.0, lax.add, sizes, strides, pads)
        if not any(w.padding):
            return total / math.prod(w.window)
        ones = jnp.ones((1, *x.shape[1:-1], 1), x.dtype)
        return total / lax.reduce_window(ones, 0.0, lax.add, sizes, strides, pads)

    return Contender(apply, no_weights)


def normalised(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """The values, in float32, and the statistics."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(axes, keepdims=True)
    var = wide.var(axes, keepdims=True)
    return (wide - mean) * lax.rsqrt(var + EPSILON), mean, var


def batch_norm(row: Row) -> Contender:
    features = row.x[-1]

    def apply(params: Any, x: Any, running: Any) -> Any:
        y, mean, var = normalised(x, tuple(range(x.ndim - 1)))
        new = {"mean": mean.reshape(-1), "var": var.reshape(-1)}
        running = {name: 0.99 * running[name] + 0.01 * new[name] for name in new}
        return (y * params["scale"] + params["bias"]).astype(x.dtype), running

    running = {"mean": jnp.zeros(features), "var": jnp.ones(features)}
    return Contender(apply, pick("scale", "bias"), extra=(running,), aux=True)


def layer_norm(row: Row) -> Contender:
    def apply(params: Any, x: Any) -> Any:
        y = normalised(x, (-1,))[0]
        return (y * params["scale"] + params["bias"]).astype(x.dtype)

    return Contender(apply, pick("scale", "bias"))


def group_norm(row: Row) -> Contender:
    groups = row["groups"]

    def apply(params: Any, x: Any) -> Any:
        parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
        y = normalised(parts, (1, 3))[0].reshape(x.shape)
        return (y * params["scale"] + params["bias"]).astype(x.dtype)

    return Contender(apply, pick("scale", "bias"))


def rms_norm(row: Row) -> Contender:
    def apply(params: Any, x: Any) -> Any:
        wide = x.astype(jnp.float32)
        y = wide * lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + EPSILON)
        return (y * params["scale"]).astype(x.dtype)

    return Contender(apply, pick("scale"))


def lstm_step(params: Any, carry: Any, ahead: Any) -> Any:
    h, c = carry
    i, f, g, o = jnp.split(ahead + h @ params["recurrent_kernel"], 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(params: Any, carry: Any, ahead: Any) -> Any:
    h, c = carry
    xr, xz, xn = jnp.split(ahead, 3, -1)
    hr, hz, hn = jnp.split(h @ params["recurrent_kernel"], 3, -1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    h = (1 - z) * jnp.tanh(xn + r * (hn + params["recurrent_bias"])) + z * h
    return (h, c), h


def simple_step(params: Any, carry: Any, ahead: Any) -> Any:
    h, c = carry
    h = jnp.tanh(ahead + h @ params["recurrent_kernel"])
    return (h, c), h


def recurrent(step: Callable[..., Any]) -> Callable[[Row], Contender]:
    """One product with all inputs, then a scan over time."""
    names = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")

    def one(row: Row, channels: int, reverse: bool) -> Contender:
        def apply(params: Any, x: Any) -> Any:
            ahead = jnp.swapaxes(x @ params["kernel"] + params["bias"], 0, 1)
            zeros = jnp.zeros((x.shape[0], row["features"]), x.dtype)
            carry = (zeros, zeros if step is lstm_step else None)
            ys = lax.scan(functools.partial(step, params), carry, ahead, reverse=reverse)[1]
            return jnp.swapaxes(ys, 0, 1)

        return Contender(apply, pick(*names))

    return functools.partial(stacked, one)


def attention(row: Row) -> Contender:
    def apply(params: Any, x: Any) -> Any:
        return jax.nn.dot_product_attention(*x, is_causal=row["causal"])

    return Contender(apply, no_weights)


def embedding(row: Row) -> Contender:
    return Contender(lambda params, x: params["embedding"][x], pick("embedding"))


def dropout(row: Row) -> Contender:
    rate = row["rate"]

    def apply(params: Any, x: Any, key: Any) -> Any:
        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0)

    return Contender(apply, no_weights, extra=(jax.random.key(0),))


OPS = {
    "dense": dense,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "separable": lambda row: chain(*map(conv, separable_parts(row))),
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "group_norm": group_norm,
    "rms_norm": rms_norm,
    "lstm": recurrent(lstm_step),
    "gru": recurrent(gru_step),
    "simple_rnn": recurrent(simple_step),
    "attention": attention,
    "embedding": embedding,
    "dropout": dropout,
}
