"""One step of a transformer that decodes, in plain ``jnp``: what a user would write without us.

Parameters and cache are those of jlayers' layers, so that both can be given the same: keys and
values (batch, slots, heads, size), and for each row of the batch how many steps it has seen.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .models.sizes import EPSILON

Tree = dict[str, Any]


def dense(p: Tree, x: jax.Array) -> jax.Array:
    return x @ p["kernel"] + p["bias"]


def layer_norm(p: Tree, x: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + EPSILON) * p["scale"] + p["bias"]


def rotary(x: jax.Array, position: jax.Array) -> jax.Array:
    """(batch, heads, size) at a position for each row."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-jnp.arange(half) / half)
    angles = (position[:, None] * rates)[:, None]
    a, b = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attend(
    p: Tree, cache: Tree, x: jax.Array, heads: int, where: tuple[Any, ...] = ()
) -> tuple[jax.Array, Tree]:
    """``where`` is the place of this layer in a stacked cache, which is changed in place."""
    batch, width = x.shape
    position, slots = cache["count"][where], cache["keys"].shape[-3]

    def part(name: str) -> jax.Array:
        return (x @ p[f"{name}_kernel"] + p[f"{name}_bias"]).reshape(batch, heads, -1)

    q, k, v = rotary(part("query"), position), rotary(part("key"), position), part("value")
    slot = (*where, jnp.arange(batch), position)
    keys, values = cache["keys"].at[slot].set(k), cache["values"].at[slot].set(v)
    scores = jnp.einsum("bhd,bshd->bhs", q, keys[where]) / jnp.sqrt(q.shape[-1])
    seen = jnp.arange(slots) <= position[:, None]
    weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -jnp.inf), -1)
    y = jnp.einsum("bhs,bshd->bhd", weights, values[where]).reshape(batch, width)
    after = {"keys": keys, "values": values, "count": cache["count"].at[where].add(1)}
    return y @ p["out_kernel"] + p["out_bias"], after


def block(
    p: Tree, cache: Tree, x: jax.Array, heads: int, where: tuple[Any, ...] = ()
) -> tuple[jax.Array, Tree]:
    y, after = attend(p["attend"], cache["attend"], layer_norm(p["attend_norm"], x), heads, where)
    x = x + y
    y = dense(p["down"], jax.nn.gelu(dense(p["up"], layer_norm(p["mlp_norm"], x))))
    return x + y, {"attend": after}


def step(params: Tree, cache: Tree, ids: jax.Array, heads: int) -> tuple[jax.Array, Tree]:
    """Logits (batch, vocabulary) after one more id of each row, block after block."""
    x, after = params["tokens"]["embedding"][ids], {}
    for i in range(len(cache)):
        name = f"blocks_{i}"
        x, after[name] = block(params[name], cache[name], x, heads)
    return dense(params["head"], layer_norm(params["norm"], x)), after


def stacked_step(params: Tree, cache: Tree, ids: jax.Array, heads: int) -> tuple[jax.Array, Tree]:
    """The same with all blocks' parameters, and all caches, stacked: one loop over the blocks."""

    def one(loop: tuple[jax.Array, Tree], copy: tuple[Tree, jax.Array]) -> Any:
        (x, cache), (p, i) = loop, copy
        return block(p, cache, x, heads, (i,)), None

    x, count = params["tokens"]["embedding"][ids], len(cache["blocks"]["attend"]["count"])
    loop = (x, cache["blocks"])
    (x, after), _ = lax.scan(one, loop, (params["blocks"], jnp.arange(count)))
    return dense(params["head"], layer_norm(params["norm"], x)), {"blocks": after}
