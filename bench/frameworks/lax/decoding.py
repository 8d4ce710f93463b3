"""One more token of a transformer without positions, in plain ``jax.numpy``, as fast as we know.

A cache has keys and values (batch, heads, steps, size), which the two products read in order: with
the steps before the heads XLA copies it at each of them. ``count`` is how many steps it holds.
"""

import jax
import jax.numpy as jnp
from jax import lax

from .models import Decoded, Tree, dense, layer_norm


def project(p: Tree, name: str, x: jax.Array, heads: int) -> jax.Array:
    """(batch, steps, width) to (batch, heads, steps, size)."""
    y = (x @ p[f"{name}_kernel"] + p[f"{name}_bias"]).reshape(*x.shape[:2], heads, -1)
    return jnp.swapaxes(y, 1, 2)


def attend(
    p: Tree, cache: Tree, count: jax.Array, x: jax.Array, heads: int
) -> tuple[jax.Array, Tree]:
    """Steps after the ``count`` that the cache holds; several are a prompt."""
    steps, slots = x.shape[1], cache["keys"].shape[2]
    at = (0, 0, count, 0)
    keys = lax.dynamic_update_slice(cache["keys"], project(p, "key", x, heads), at)
    values = lax.dynamic_update_slice(cache["values"], project(p, "value", x, heads), at)
    q = project(p, "query", x, heads)
    scores = jnp.einsum("bhtd,bhsd->bhts", q, keys) / jnp.sqrt(q.shape[-1])
    visible = jnp.arange(slots) <= count + jnp.arange(steps)[:, None]
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), -1)
    y = jnp.swapaxes(jnp.einsum("bhts,bhsd->bhtd", weights, values), 1, 2).reshape(x.shape)
    return y @ p["out_kernel"] + p["out_bias"], {"keys": keys, "values": values}


def empty_cache(blocks: int, batch: int, heads: int, steps: int, size: int) -> Tree:
    zeros = jnp.zeros((batch, heads, steps, size))
    own = {f"blocks_{i}": {"keys": zeros.copy(), "values": zeros.copy()} for i in range(blocks)}
    return {"blocks": own, "count": jnp.zeros((), jnp.int32)}


def decode(params: Tree, cache: Tree, ids: jax.Array, heads: int) -> Decoded:
    """Logits (batch, vocabulary) after the ids (batch, steps), and the cache with them."""
    x, after, count = params["tokens"]["embedding"][ids], {}, cache["count"]
    for name, own in cache["blocks"].items():
        p = params[name]
        y, after[name] = attend(p["attend"], own, count, layer_norm(p["attend_norm"], x), heads)
        x = x + y
        up = dense(p["up"], layer_norm(p["mlp_norm"], x))
        x = x + dense(p["down"], jax.nn.gelu(up))
    logits = dense(params["head"], layer_norm(params["norm"], x[:, -1]))
    return logits, {"blocks": after, "count": count + ids.shape[1]}
