"""The operations written by hand with ``jax.lax``."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...ops.conv import geometry
from ...ops.norm import EPSILON
from ...ops.pool import window
from ...row import Row
from ..jax_op import JaxOp, attention, stacked

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def conv(row: Row) -> JaxOp:
    g = geometry(row)
    options = {"dimension_numbers": LAYOUTS[g.rank], "feature_group_count": g.groups}
    convolve = partial(lax.conv_general_dilated, rhs_dilation=g.dilation, **options)

    def apply(params: Any, x: Any) -> Any:
        y = convolve(x, params["kernel"], g.strides, g.pairs)
        return y + params["bias"] if g.bias else y

    return JaxOp(apply)


def conv_transpose(row: Row) -> JaxOp:
    g, padding = geometry(row), row["padding"]
    convolve = partial(lax.conv_transpose, dimension_numbers=LAYOUTS[g.rank])
    return JaxOp(lambda p, x: convolve(x, p["kernel"], g.strides, padding) + p["bias"])


def max_pool(row: Row) -> JaxOp:
    axes = window(row).with_batch_and_channels
    return JaxOp(lambda params, x: lax.reduce_window(x, -jnp.inf, lax.max, *axes))


def avg_pool(row: Row) -> JaxOp:
    w = window(row)

    def total(x: Any) -> Any:
        return lax.reduce_window(x, 0.0, lax.add, *w.with_batch_and_channels)

    def apply(params: Any, x: Any) -> Any:
        if not any(w.padding):
            return total(x) / math.prod(w.window)
        return total(x) / total(jnp.ones((1, *x.shape[1:-1], 1), x.dtype))

    return JaxOp(apply)


def normalised(x: Any, axes: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """The values, in float32, and the statistics."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(axes, keepdims=True)
    var = wide.var(axes, keepdims=True)
    return (wide - mean) * lax.rsqrt(var + EPSILON), mean, var


def scaled(params: Any, y: Any, like: Any) -> Any:
    return (y.reshape(like.shape) * params["scale"] + params["bias"]).astype(like.dtype)


def batch_norm(row: Row) -> JaxOp:
    features = row.x[-1]

    def apply(params: Any, x: Any, running: Any) -> Any:
        y, mean, var = normalised(x, tuple(range(x.ndim - 1)))
        new = {"mean": mean.reshape(-1), "var": var.reshape(-1)}
        running = {name: 0.99 * running[name] + 0.01 * new[name] for name in new}
        return scaled(params, y, x), running

    running = {"mean": jnp.zeros(features), "var": jnp.ones(features)}
    return JaxOp(apply, extra=(running,), aux=True)


def group_norm(row: Row) -> JaxOp:
    groups = row["groups"]

    def apply(params: Any, x: Any) -> Any:
        parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
        return scaled(params, normalised(parts, (1, 3))[0], x)

    return JaxOp(apply)


def rms_norm(row: Row) -> JaxOp:
    def apply(params: Any, x: Any) -> Any:
        wide = x.astype(jnp.float32)
        y = wide * lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + EPSILON)
        return (y * params["scale"]).astype(x.dtype)

    return JaxOp(apply)


def lstm_step(params: Any, carry: Any, projected: Any) -> Any:
    h, c = carry
    i, f, g, o = jnp.split(projected + h @ params["recurrent_kernel"], 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(params: Any, carry: Any, projected: Any) -> Any:
    h, c = carry
    xr, xz, xn = jnp.split(projected, 3, -1)
    hr, hz, hn = jnp.split(h @ params["recurrent_kernel"], 3, -1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    h = (1 - z) * jnp.tanh(xn + r * (hn + params["recurrent_bias"])) + z * h
    return (h, c), h


def simple_step(params: Any, carry: Any, projected: Any) -> Any:
    h, c = carry
    h = jnp.tanh(projected + h @ params["recurrent_kernel"])
    return (h, c), h


def recurrent(
    step: Callable[..., Any], row: Row, channels: int, reverse: bool, unroll: int = 1
) -> JaxOp:
    """One product with all inputs, then a scan over time."""

    def apply(params: Any, x: Any) -> Any:
        projected = jnp.swapaxes(x @ params["kernel"] + params["bias"], 0, 1)
        zeros = jnp.zeros((x.shape[0], row["features"]), x.dtype)
        carry = (zeros, zeros if step is lstm_step else None)
        body, options = partial(step, params), {"reverse": reverse, "unroll": unroll}
        ys = lax.scan(body, carry, projected, **options)[1]
        return jnp.swapaxes(ys, 0, 1)

    return JaxOp(apply)


def dropout(row: Row) -> JaxOp:
    rate = row["rate"]

    def apply(params: Any, x: Any, key: Any) -> Any:
        keep = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0)

    return JaxOp(apply, extra=(jax.random.key(0),))


OPS: dict[str, Callable[[Row], JaxOp]] = {
    "dense": lambda row: JaxOp(lambda params, x: x @ params["kernel"] + params["bias"]),
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "layer_norm": lambda row: JaxOp(lambda params, x: scaled(params, normalised(x, (-1,))[0], x)),
    "group_norm": group_norm,
    "rms_norm": rms_norm,
    "lstm": partial(stacked, partial(recurrent, lstm_step)),
    "gru": partial(stacked, partial(recurrent, gru_step)),
    "simple_rnn": partial(stacked, partial(recurrent, simple_step)),
    "attention": attention(jax.nn.dot_product_attention),
    "embedding": lambda row: JaxOp(lambda params, x: params["embedding"][x]),
    "dropout": dropout,
}
