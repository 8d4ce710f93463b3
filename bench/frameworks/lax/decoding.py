"""One more token of a transformer without positions, in plain ``jax.numpy``, as fast as we know.

A cache has keys and values (batch, heads, steps, size), which the two products read in order: with
the steps before the heads XLA copies it at each of them. ``count`` is how many steps it holds.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .models import Decoded, Tree, dense, layer_norm


def project(p: Tree, name: str, x: jax.Array, batch: int, heads: int) -> jax.Array:
    """(batch * steps, width) to (batch, heads, steps, size)."""
    y = (x @ p[f"{name}_kernel"] + p[f"{name}_bias"]).reshape(batch, -1, heads, x.shape[1] // heads)
    return jnp.swapaxes(y, 1, 2)


def attend(
    p: Tree, cache: Tree, count: jax.Array, x: jax.Array, heads: int
) -> tuple[jax.Array, Tree]:
    """Steps (batch * steps, width) after the ``count`` that the cache holds."""
    batch, at = cache["keys"].shape[0], (0, 0, count, 0)
    q, key, value = (project(p, name, x, batch, heads) for name in ("query", "key", "value"))
    if q.shape[2] > 1:
        keys, values = (
            lax.dynamic_update_slice(old, new, at)
            for old, new in ((cache["keys"], key), (cache["values"], value))
        )
        y = _attend_prompt(q, keys, values, count)
    else:
        y = _attend_one(q, key, value, cache["keys"], cache["values"], count)
        # Written after it has been read: otherwise XLA copies it first.
        y, old_keys, old_values = lax.optimization_barrier((y, cache["keys"], cache["values"]))
        keys = lax.dynamic_update_slice(old_keys, key, at)
        values = lax.dynamic_update_slice(old_values, value, at)
    y = jnp.swapaxes(y, 1, 2).reshape(x.shape)
    return y @ p["out_kernel"] + p["out_bias"], {"keys": keys, "values": values}


def _attend_prompt(q: jax.Array, keys: jax.Array, values: jax.Array, count: jax.Array) -> jax.Array:
    steps, slots = q.shape[2], keys.shape[2]
    scores = jnp.einsum("bhtd,bhsd->bhts", q, keys) / jnp.sqrt(q.shape[-1])
    visible = jnp.arange(slots) <= count + jnp.arange(steps)[:, None]
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), -1)
    return jnp.einsum("bhts,bhsd->bhtd", weights, values)


def _attend_one(
    q: jax.Array,
    key: jax.Array,
    value: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    count: jax.Array,
) -> jax.Array:
    """The query on the cache as it was, and on its own key and value beside it."""
    held = jnp.arange(keys.shape[2]) < count
    scores = jnp.einsum("bhtd,bhsd->bhts", q, keys)
    scores = jnp.where(held, scores, -jnp.inf)
    both = jnp.concatenate([scores, jnp.sum(q * key, -1, keepdims=True)], -1)
    weights = jax.nn.softmax(both / jnp.sqrt(q.shape[-1]), -1)
    return jnp.einsum("bhts,bhsd->bhtd", weights[..., :-1], values) + weights[..., -1:] * value


def empty_cache(blocks: int, batch: int, heads: int, steps: int, size: int) -> Tree:
    zeros = jnp.zeros((batch, heads, steps, size))
    own = {f"blocks_{i}": {"keys": zeros.copy(), "values": zeros.copy()} for i in range(blocks)}
    return {"blocks": own, "count": jnp.zeros((), jnp.int32)}


def decode(params: Tree, cache: Tree, ids: jax.Array, heads: int) -> Decoded:
    """Logits (batch, vocabulary) after the ids (batch, steps), and the cache with them."""
    x, after, count = params["tokens"]["embedding"][ids.reshape(-1)], {}, cache["count"]
    # By number: JAX sorts the names, and blocks_10 would come before blocks_2.
    for name in (f"blocks_{i}" for i in range(len(cache["blocks"]))):
        p, own = params[name], cache["blocks"][name]
        y, after[name] = attend(p["attend"], own, count, layer_norm(p["attend_norm"], x), heads)
        x = x + y
        up = dense(p["up"], layer_norm(p["mlp_norm"], x))
        x = x + dense(p["down"], jax.nn.gelu(up))
    last = x.reshape(*ids.shape, -1)[:, -1]
    logits = dense(params["head"], layer_norm(params["norm"], last))
    return logits, {"blocks": after, "count": count + ids.shape[1]}
