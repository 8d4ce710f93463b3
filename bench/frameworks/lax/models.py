"""Models in plain ``jax.numpy``: what a user would write without a layer library.

Parameters and caches are those of jlayers' layers, so that both can be given the same. A cache has
keys and values (batch, heads, slots, size), and for each row of the batch how many steps it holds.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..optax_step import Model
from ..sizes import EPSILON, Perceptron

Tree, Index = dict[str, Any], tuple[Any, ...]
Decoded = tuple[jax.Array, Tree]  # and the cache


def dense(p: Tree, x: jax.Array) -> jax.Array:
    return x @ p["kernel"] + p["bias"]


def mlp(params: Tree, x: jax.Array) -> jax.Array:
    """Dense layers, in the order of their names, with ReLU between them."""
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.relu(dense(layer, x))
    return dense(last, x)


def mlp_model(size: Perceptron) -> Model:
    """Its parameters are always given, so that it has no initialiser but zeros."""
    names = [*(f"dense_{i}" for i in range(len(size.features))), "head"]
    shapes = dict(
        zip(names, itertools.pairwise((size.inputs, *size.features, size.classes)), strict=True)
    )
    zeros = {n: {"kernel": jnp.zeros(s), "bias": jnp.zeros(s[1])} for n, s in shapes.items()}
    return Model(lambda key, x: (zeros, {}), lambda params, state, x: (mlp(params, x), state))


MODELS = {"mlp": mlp_model}


def layer_norm(p: Tree, x: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + EPSILON) * p["scale"] + p["bias"]


def apply_rope(x: jax.Array, position: jax.Array) -> jax.Array:
    """(batch, heads, size) at a position for each row."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-jnp.arange(half) / half)
    angles = (position[:, None] * rates)[:, None]
    a, b = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attend(p: Tree, cache: Tree, x: jax.Array, heads: int, index: Index = ()) -> Decoded:
    """``index`` is the layer's in a stacked cache, which is updated in place."""
    batch, width = x.shape
    position, slots = cache["count"][index], cache["keys"].shape[-2]

    def project(name: str) -> jax.Array:
        return (x @ p[f"{name}_kernel"] + p[f"{name}_bias"]).reshape(batch, heads, -1)

    q, k = apply_rope(project("query"), position), apply_rope(project("key"), position)
    slot = (*index, jnp.arange(batch), slice(None), position)
    keys, values = cache["keys"].at[slot].set(k), cache["values"].at[slot].set(project("value"))
    scores = jnp.einsum("bhd,bhsd->bhs", q, keys[index]) / jnp.sqrt(q.shape[-1])
    visible = jnp.arange(slots) <= position[:, None]
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf), -1)
    y = jnp.einsum("bhs,bhsd->bhd", weights, values[index]).reshape(batch, width)
    after = {"keys": keys, "values": values, "count": cache["count"].at[index].add(1)}
    return y @ p["out_kernel"] + p["out_bias"], after


def block(p: Tree, cache: Tree, x: jax.Array, heads: int, index: Index = ()) -> Decoded:
    y, after = attend(p["attend"], cache["attend"], layer_norm(p["attend_norm"], x), heads, index)
    x = x + y
    y = dense(p["down"], jax.nn.gelu(dense(p["up"], layer_norm(p["mlp_norm"], x))))
    return x + y, {"attend": after}


def decode(params: Tree, cache: Tree, ids: jax.Array, heads: int) -> Decoded:
    """Logits (batch, vocabulary) after one more id of each row, block after block."""
    x, after = params["tokens"]["embedding"][ids], {}
    for i in range(len(cache)):
        name = f"blocks_{i}"
        x, after[name] = block(params[name], cache[name], x, heads)
    return dense(params["head"], layer_norm(params["norm"], x)), after


def stacked_decode(params: Tree, cache: Tree, ids: jax.Array, heads: int) -> Decoded:
    """The same with the parameters and caches of all blocks stacked: one loop over the blocks."""

    def one(carry: tuple[jax.Array, Tree], copy: tuple[Tree, jax.Array]) -> Any:
        (x, cache), (p, i) = carry, copy
        return block(p, cache, x, heads, (i,)), None

    x, count = params["tokens"]["embedding"][ids], len(cache["blocks"]["attend"]["count"])
    carry = (x, cache["blocks"])
    (x, after), _ = lax.scan(one, carry, (params["blocks"], jnp.arange(count)))
    return dense(params["head"], layer_norm(params["norm"], x)), {"blocks": after}
