"""LatentAttention: keys and values of all heads from one small vector for each step (MLA)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base.arguments import AboveZero, NonNegative, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.receptive_field import CAUSAL
from ...base.sequence import Steps, join, split
from ...base.specs import cast_like, format_spec
from ...base.types import Carry, Initializer, Key, Params
from .base import Spec, asked_of_whole, check_steps, of_attention, of_valid_queries
from .options import RopeOption, check_rope, rope_of
from .self_attention import positions_of


@factory
def LatentAttention(
    num_heads: Positive,
    latent_dim: Positive,
    *,
    rope_dim: Positive,
    causal: bool = False,
    head_dim: Positive | None = None,
    value_dim: Positive | None = None,
    query_latent_dim: Positive | None = None,
    features: Positive | None = None,
    rope: RopeOption = True,
    epsilon: NonNegative = 1e-6,
    scale: AboveZero | None = None,
    kernel_init: Initializer = initializers.glorot_uniform(),
    method: str | None = None,
) -> Layer:
    """Self-attention whose cache is one vector of ``latent_dim + rope_dim`` for each step.

    Multi-head latent attention of DeepSeek-V2 (2024, arXiv:2405.04434)::

        c, r  = x @ latent_kernel                      # (latent_dim,), (rope_dim,)
        c     = rms_norm(c) * latent_scale
        k_i   = [c @ key_kernel_i, rotated(r)]         # r is the same for all heads
        v_i   = c @ value_kernel_i
        q_i   = [x @ query_kernel_i, rotated(...)]     # or from rms_norm(x @ query_latent_kernel)
        y     = concat_i(softmax(scale q_i k_i') v_i) @ out_kernel

    In a stream queries and outputs go through ``key_kernel`` and ``value_kernel`` in place of keys
    and values, which gives the same numbers, and the carry holds ``c`` and ``rotated(r)`` alone.
    Padding, positions and the ``capacity`` of a stream are as for ``SelfAttention``.

    Args:
      num_heads: number of heads.
      latent_dim: size of ``c``.
      rope_dim: features of a head that are rotated, beside its ``head_dim``.
      causal: whether no step attends to a later one.
      head_dim: features of a head that are not rotated; those of the input / ``num_heads`` if None.
      value_dim: features of a head of values; ``head_dim`` if None.
      query_latent_dim: size of the vector that queries are made of; none if None.
      features: size of the output's last axis; that of the input if None.
      rope: True, the base of the angles, or a ``Rope``; DeepSeek's is ``Rope(interleaved=True)``.
      epsilon: of the norms.
      scale: of the scores; ``1 / sqrt(head_dim + rope_dim)`` if None.
      kernel_init: as in ``jax.nn.initializers``.
      method: as for ``core.attention``.

    Shapes:
      x: (batch, time, in), floating. y: (batch, time, features), of the dtype of ``x``; the softmax
      is float32 at least.
      params: latent_kernel (in, latent_dim + rope_dim), latent_scale (latent_dim,), key_kernel
      (latent_dim, num_heads * head_dim), value_kernel (latent_dim, num_heads * value_dim),
      query_kernel (in, num_heads * (head_dim + rope_dim)), out_kernel (num_heads * value_dim,
      features); with ``query_latent_dim`` query_latent_kernel (in, query_latent_dim),
      query_latent_scale, and query_kernel from there.
      carry: latents (batch, 1, slots, latent_dim + rope_dim), of the dtype of ``x``; count, int32
      (batch,), the valid steps so far.

    Raises:
      LayerError: for a ``num_heads`` that does not divide the features of the input where no
        ``head_dim`` is given, an odd number of features to rotate, and an input that is not one
        floating array of rank 3.

    >>> import jlayers as jl
    >>> layer = jl.LatentAttention(4, 16, rope_dim=8, causal=True)
    >>> jl.out_spec(layer, jl.spec((2, 10, 32))).shape
    (2, 10, 32)
    """
    turns = rope_of(rope)
    if turns is None:
        raise LayerError("rope is what tells positions apart here", hint="rope=True, or a base")

    def heads(x: jax.Array) -> jax.Array:
        """(..., all heads) as (..., num_heads, size)."""
        return x.reshape(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)

    def init(key: jax.Array, x: Spec) -> Params:
        check_steps(x)
        width = x.shape[-1]
        if head_dim is None and width % num_heads:
            raise LayerError(
                f"num_heads {num_heads} does not divide the {width} features of the input",
                got=format_spec(x),
                hint="head_dim=..., the features of one head",
            )
        check_rope(turns, rope_dim)
        size = head_dim or width // num_heads
        of_values = value_dim or size
        shapes = {
            "latent_kernel": (width, latent_dim + rope_dim),
            "key_kernel": (latent_dim, num_heads * size),
            "value_kernel": (latent_dim, num_heads * of_values),
            "query_kernel": (query_latent_dim or width, num_heads * (size + rope_dim)),
            "out_kernel": (num_heads * of_values, features or width),
        }
        scales = {"latent_scale": (latent_dim,)}
        if query_latent_dim is not None:
            shapes["query_latent_kernel"] = (width, query_latent_dim)
            scales["query_latent_scale"] = (query_latent_dim,)
        wanted: dict[str, Any] = {name: (kernel_init, shape) for name, shape in shapes.items()}
        wanted |= {name: (initializers.ones, shape) for name, shape in scales.items()}
        return initialize(key, x, **wanted)

    def start(params: Params, x: Spec, capacity: int | None) -> Carry:
        if capacity is None:
            raise LayerError(
                "attention to all steps needs to know for how many it keeps room",
                hint="jl.stream(model, capacity=...)",
            )
        shape = (x.shape[0], 1, capacity, latent_dim + rope_dim)
        count = jnp.zeros((x.shape[0],), jnp.int32)
        return {"latents": jnp.zeros(shape, x.dtype), "count": count}

    def latents_of(p: Params, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Normalised latents (batch, time, latent_dim), rotated keys (batch, time, 1, rope_dim)."""
        both = core.dense(x, p["latent_kernel"], None)
        latents, keys = both[..., :latent_dim], both[..., None, latent_dim:]
        latents = core.position_norm(latents, p["latent_scale"], None, epsilon, centred=False)
        return latents, core.apply_rope(keys, positions, turns)

    def queries_of(p: Params, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The part of each head that is not rotated, and the part that is."""
        if "query_latent_kernel" in p:
            x = core.dense(x, p["query_latent_kernel"], None)
            x = core.position_norm(x, p["query_latent_scale"], None, epsilon, centred=False)
        q = heads(core.dense(x, p["query_kernel"], None))
        return q[..., :-rope_dim], core.apply_rope(q[..., -rope_dim:], positions, turns)

    def step(params: Params, carry: Carry | None, x: Steps, key: Key) -> tuple[Steps, Carry]:
        asked = asked_of_whole(carry)
        values, mask = split(x)
        p = cast_like(params, values)
        count = None if carry is None else carry["count"]
        positions = positions_of(mask, count, values.shape[:2])
        latents, shared = latents_of(p, values, positions)
        q, turned = queries_of(p, values, positions)
        how: dict[str, Any] = {"scale": scale or (q.shape[-1] + rope_dim) ** -0.5, "method": method}
        if carry is None:
            k = heads(core.dense(latents, p["key_kernel"], None))
            v = heads(core.dense(latents, p["value_kernel"], None))
            shared = jnp.broadcast_to(shared, (*k.shape[:3], rope_dim))
            visible = None if mask is None else mask[:, None, None]
            k, q = jnp.concatenate([k, shared], -1), jnp.concatenate([q, turned], -1)
            where: dict[str, Any] = {"causal": causal, "mask": visible}
            if asked is None:
                out = core.attention(q, k, v, **where, **how)
            else:
                out, weights = core.attention_with_weights(q, k, v, **where, scale=how["scale"])
                asked.give("weights", of_valid_queries(weights, mask))
            after: Carry = {}
        else:
            # One head of keys, the cache, which are values as well.
            q = jnp.einsum("btnh,lnh->btnl", q, heads(p["key_kernel"]))
            keys = jnp.concatenate([latents[..., None, :], shared], -1)
            cache = core.Cache(carry["latents"], None, carry["count"])
            q = jnp.concatenate([q, turned], -1)
            out, cache = core.cached_attention(q, keys, keys, cache, mask=mask, **how)
            kernel = heads(p["value_kernel"])
            out = jnp.einsum("btnl,lnh->btnh", out[..., :latent_dim], kernel)
            after = {"latents": cache.keys, "count": cache.lengths}
        out = out.reshape(*out.shape[:2], p["out_kernel"].shape[0])
        return join(core.dense(out, p["out_kernel"], None), mask), after

    return of_attention(
        init,
        start,
        step,
        (lambda x: CAUSAL) if causal else None,
        dropout_rate=0.0,
        unstreamed=None if causal else "every step sees the later ones",
        lazy_weights=("latent_kernel", "query_latent_kernel", "query_kernel", "out_kernel"),
    )
