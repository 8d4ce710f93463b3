"""Bags of rows, of one size or flat, as one row each."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .dtypes import at_least_float32


def reduce_bags(rows: jax.Array, counts: jax.Array, mode: str) -> jax.Array:
    """The mean, sum or maximum of the rows of each bag.

    Args:
      rows: (..., bag, features).
      counts: bools (..., bag), which rows count; zeros where none does.
      mode: "mean", "sum" or "max".

    Returns:
      (..., features), of the dtype of ``rows``.
    """
    counts = jnp.broadcast_to(counts[..., None], rows.shape)
    if mode == "max":
        least = jnp.where(counts, rows, jnp.full_like(rows, -jnp.inf))
        most = jnp.max(least, -2, initial=-jnp.inf)
        return jnp.where(jnp.any(counts, -2), most, jnp.zeros_like(most))
    wide = at_least_float32(rows.dtype)
    total = jnp.sum(jnp.where(counts, rows, jnp.zeros_like(rows)), -2, dtype=wide)
    if mode == "mean":
        total = total / jnp.maximum(jnp.sum(counts, -2, dtype=wide), 1)
    return total.astype(rows.dtype)


def reduce_segments(rows: jax.Array, counts: jax.Array, offsets: jax.Array, mode: str) -> jax.Array:
    """The same for rows (n, features) whose bags begin at the ``offsets`` (bags,), sorted, from 0.

    Returns:
      (bags, features).
    """
    n, bags = rows.shape[0], offsets.shape[0]
    # How many bags have started: several at once where some are empty, and none after the last id.
    started = jnp.zeros(n, jnp.int32).at[offsets].add(1, mode="drop")
    bag = jnp.cumsum(started) - 1
    # Out of range, and dropped: ids ahead of the first bag, and those that do not count.
    bag = jnp.where(counts & (bag >= 0), bag, jnp.full_like(bag, bags))

    def total(values: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, bag, bags)

    size = jnp.maximum(total(jnp.ones_like(rows[:, :1])), 1)
    if mode == "sum":
        return total(rows)
    if mode == "mean":
        return total(rows) / jnp.broadcast_to(size, (bags, rows.shape[1]))
    # JAX has no derivative of a maximum by segments: that of the largest rows, if several are
    # equal, is divided among them.
    fixed = jax.lax.stop_gradient(rows)
    most = jax.ops.segment_max(fixed, bag, bags)
    most = jnp.where(jnp.isneginf(most), jnp.zeros_like(most), most)
    of_each = most.at[bag].get(mode="fill", fill_value=0)
    largest = (fixed == of_each).astype(rows.dtype)
    ties = jnp.maximum(total(largest), 1)
    return most + total(largest * (rows - of_each)) / ties
