"""The steps just before each step: what a short causal convolution inside a cell reads.

Skipped steps are not among them. So a row has the same windows with its padding as without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .stepwise import ScanOptions


class Windows(NamedTuple):
    """Steps in the order in which they run, the context before them.

    Attributes:
      steps: (batch, context + time, ...): the context, the steps that are not skipped, and then the
        skipped ones, which no valid window reads.
      restore: takes (batch, time, ...) in that order back to the order of the input.
      context: the last ones that were not skipped, as many as there were before.
    """

    steps: jax.Array
    restore: Callable[[jax.Array], jax.Array]
    context: jax.Array


def with_context(x: jax.Array, context: jax.Array, options: ScanOptions) -> Windows:
    """(batch, time, ...) with the steps before it, (batch, context, ...)."""
    size = context.shape[1]

    def in_order(values: jax.Array) -> jax.Array:
        return jnp.flip(values, 1) if options.reverse else values

    x = in_order(x)
    if options.mask is None:
        steps = jnp.concatenate([context, x], 1)
        return Windows(steps, in_order, steps[:, x.shape[1] :])
    mask = in_order(options.mask)
    # A stable sort brings the valid steps together, whatever holes there are.
    order = jnp.argsort(~mask, axis=1, stable=True)
    place = jnp.maximum(jnp.cumsum(mask, 1) - 1, 0)
    steps = jnp.concatenate([context, _take(x, order)], 1)
    last = jnp.sum(mask, 1, keepdims=True) + jnp.arange(size)[None]
    return Windows(steps, lambda values: in_order(_take(values, place)), _take(steps, last))


def one_step(x: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The window that ends with a step (batch, ...), and the context of the next one."""
    steps = jnp.concatenate([context, x[:, None]], 1)
    return steps, steps[:, 1:]


def _take(values: jax.Array, places: jax.Array) -> jax.Array:
    """``values[row, places[row]]`` for each row."""
    return jnp.take_along_axis(values, places.reshape(*places.shape, *(1,) * (values.ndim - 2)), 1)
