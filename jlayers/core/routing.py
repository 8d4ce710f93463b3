"""Which tokens go to which experts: top-k and expert choice, in groups that share capacity.

How to read this file: ``top_k_gates`` chooses experts for each token. ``slots_of_tokens`` and
``slots_of_experts`` say which token each place of an expert holds, and with which gate;
``into_slots`` and ``out_of_slots`` move the tokens there and back. ``balance_loss`` and ``z_loss``
are the losses of routers. Everywhere tokens are (groups, tokens), and ``valid``, bools of that
shape, says which of them are there: the others are sent nowhere and count nothing.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .dtypes import has_sharded_type


class Slots(NamedTuple):
    """What the places of experts hold.

    Attributes:
      token: (groups, experts, capacity), int32; the number of tokens where a place is empty.
      gate: the same shape, the weight of the expert's output for that token; 0 where it is empty.
    """

    token: jax.Array
    gate: jax.Array


def capacity_of(tokens: Any, per_token: float, num_experts: int) -> Any:
    """``ceil(tokens * per_token / num_experts)``, at most ``tokens``; also for traced numbers.

    Args:
      tokens: how many share the capacity, a number, a symbolic size or an array.
      per_token: how many places there are for each token, over all experts.
    """
    # In whole numbers: a product in float32 may lie on the other side of an integer.
    rounded = Fraction(per_token).limit_denominator(1000)
    share = max(rounded, Fraction(1, 1000)) / num_experts  # however small, one place
    places = (tokens * share.numerator + share.denominator - 1) // share.denominator
    # By the share: a symbolic size cannot be compared.
    return tokens if share >= 1 else places


def top_k_gates(
    probabilities: jax.Array, top_k: int, renormalize: bool
) -> tuple[jax.Array, jax.Array]:
    """The largest probabilities and which they are, (..., top_k) each, the largest first.

    Args:
      probabilities: (..., experts).
      renormalize: whether those of a token are divided by their sum.
    """
    gates, chosen = lax.top_k(probabilities, top_k)
    if renormalize:
        gates = gates / jnp.broadcast_to(jnp.sum(gates, -1, keepdims=True), gates.shape)
    return gates, chosen


def slots_of_tokens(
    gates: jax.Array,
    chosen: jax.Array,
    valid: jax.Array,
    num_experts: int,
    capacity: int,
    limit: jax.Array | int,
) -> Slots:
    """The places that tokens get which choose their experts, first choices before second ones.

    Tokens of one choice queue in their order, and those behind the capacity are left out.

    Args:
      gates, chosen: (groups, tokens, top_k), of ``top_k_gates``.
      capacity: places that an expert has for each group.
      limit: how many of them are used, (groups,) or a number.
    """
    _, tokens, top_k = chosen.shape

    def of_group(gates: jax.Array, chosen: jax.Array, valid: jax.Array, limit: jax.Array) -> Slots:
        order = chosen.T.reshape(-1)
        counts = jnp.tile(valid, top_k)
        hot = jax.nn.one_hot(order, num_experts, dtype=bool) & counts[:, None]
        ahead = jnp.cumsum(hot, 0, dtype=jnp.int32) - hot.astype(jnp.int32)
        place = jnp.sum(jnp.where(hot, ahead, jnp.zeros_like(ahead)), 1, dtype=jnp.int32)
        kept = counts & (place < limit)
        # Out of range, and dropped, for what is not kept.
        place = jnp.where(kept, place, jnp.full_like(place, capacity))
        token = jnp.tile(jnp.arange(tokens, dtype=jnp.int32), top_k)
        shape = (num_experts, capacity)
        empty = jnp.full(shape, tokens, jnp.int32), jnp.zeros(shape, gates.dtype)
        values = token, gates.T.reshape(-1)
        return Slots(
            *(e.at[order, place].set(v, mode="drop") for e, v in zip(empty, values, strict=True))
        )

    return jax.vmap(of_group)(gates, chosen, valid, _limits(limit, valid))


def slots_of_experts(
    probabilities: jax.Array, valid: jax.Array, capacity: int, limit: jax.Array | int
) -> Slots:
    """The places that tokens get where each expert chooses its likeliest ones.

    Args:
      probabilities: (groups, tokens, experts).
      capacity, limit: as for ``slots_of_tokens``.
    """
    tokens = probabilities.shape[1]
    shown = jnp.where(valid[..., None], probabilities, -jnp.ones_like(probabilities))
    gate, token = lax.top_k(jnp.moveaxis(shown, -1, 1), capacity)
    limits = _limits(limit, valid)[:, None, None]
    kept = (lax.broadcasted_iota(jnp.int32, gate.shape, 2) < limits) & (gate >= 0)
    return Slots(
        jnp.where(kept, token, jnp.full_like(token, tokens)),
        jnp.where(kept, gate, jnp.zeros_like(gate)),
    )


def _limits(limit: jax.Array | int, valid: jax.Array) -> jax.Array:
    """One for each group, int32 under x64 too, on the devices of the groups."""
    limits = jnp.broadcast_to(jnp.asarray(limit).astype(jnp.int32), valid.shape[:1])
    return limits + jnp.zeros_like(valid[:, 0], jnp.int32) if has_sharded_type(valid) else limits


def into_slots(x: jax.Array, slots: Slots) -> jax.Array:
    """Tokens (groups, tokens, features) by expert, (experts, groups * capacity, features).

    An empty place holds zeros.
    """
    groups, experts, capacity = slots.token.shape
    placed = jax.vmap(lambda x, token: x.at[token].get(mode="fill", fill_value=0))(x, slots.token)
    return jnp.moveaxis(placed, 1, 0).reshape(experts, groups * capacity, x.shape[-1])


def out_of_slots(y: jax.Array, slots: Slots, tokens: int) -> jax.Array:
    """The sum of the outputs for each token, weighted by the gates, (groups, tokens, features)."""
    groups, experts, capacity = slots.token.shape
    placed = jnp.moveaxis(y.reshape(experts, groups, capacity, y.shape[-1]), 0, 1)
    # Beside the gate, which is 0: an expert may give NaN for the zeros of an empty place.
    empty = (slots.token == tokens)[..., None]
    gates = jnp.broadcast_to(slots.gate[..., None], placed.shape)
    placed = jnp.where(
        jnp.broadcast_to(empty, placed.shape),
        jnp.zeros_like(gates),
        placed.astype(gates.dtype) * gates,
    )

    def of_group(placed: jax.Array, token: jax.Array) -> jax.Array:
        zeros = jnp.zeros((tokens, placed.shape[-1]), placed.dtype)
        return zeros.at[token].add(placed, mode="drop")

    return jax.vmap(of_group)(placed, slots.token)


def balance_loss(probabilities: jax.Array, chosen: jax.Array, valid: jax.Array) -> jax.Array:
    """``experts * sum_e f_e p_e``: 1 where experts are used alike (Fedus et al., 2021).

    f is the share of all choices that fell on an expert, p the mean of its probability.
    """
    num_experts = probabilities.shape[-1]
    hot = jax.nn.one_hot(chosen, num_experts, dtype=bool) & valid[..., None, None]
    used = jnp.sum(hot, (0, 1, 2), dtype=probabilities.dtype)
    shown = jnp.where(valid[..., None], probabilities, jnp.zeros_like(probabilities))
    count = jnp.maximum(jnp.sum(valid, dtype=probabilities.dtype), 1)
    share = used / (count * chosen.shape[-1])
    return num_experts * jnp.sum(share * (jnp.sum(shown, (0, 1)) / count))


def z_loss(logits: jax.Array, valid: jax.Array) -> jax.Array:
    """The mean of ``logsumexp(logits) ** 2`` (Zoph et al., 2022, arXiv:2202.08906)."""
    squares = jnp.square(jax.nn.logsumexp(logits, -1))
    count = jnp.maximum(jnp.sum(valid, dtype=logits.dtype), 1)
    return jnp.sum(jnp.where(valid, squares, jnp.zeros_like(squares))) / count
