"""Pooling windows of any rank, channels last."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .dtypes import at_least_float32

Pads = str | Sequence[tuple[int, int]]


def max_pool(
    x: jax.Array, *, window: Sequence[int], strides: Sequence[int], padding: Pads
) -> jax.Array:
    """The largest value in each window; padding never wins.

    Args:
      x: (batch, *spatial, channels), floating or integer.
      window, strides: one int for each spatial axis.
      padding: ``"VALID"``, ``"SAME"``, or a (low, high) for each spatial axis.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``.
    """
    if jnp.issubdtype(x.dtype, jnp.floating):
        lowest = np.array(-np.inf, x.dtype)
    else:
        lowest = np.array(np.iinfo(x.dtype).min, x.dtype)
    return _windows(x, lowest, lax.max, window, strides, padding)


def global_max_pool(x: jax.Array) -> jax.Array:
    """The largest value over all spatial axes; of equal values the first has the gradient.

    Args:
      x: (batch, *spatial, channels), floating or integer.

    Returns:
      (batch, channels), of the dtype of ``x``.
    """
    for _ in range(x.ndim - 2):
        x = _largest(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.max(x, 1)
    return x


# The gradient of jnp.max looks for the largest value with ==. A compiled program may compute ``x``
# twice, with different roundings: then nothing is found, and the gradient is wrong or NaN.
@jax.custom_jvp
def _largest(x: jax.Array) -> jax.Array:
    return jnp.max(x, 1)


@_largest.defjvp
def _largest_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    at = jnp.argmax(x, 1, keepdims=True)
    # Zeros like x, so that the positions are spread over devices as x is.
    places = lax.broadcasted_iota(at.dtype, x.shape, 1) + jnp.zeros_like(x, at.dtype)
    first = places == at

    def pick(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(first, values, jnp.zeros_like(values)), 1)

    return pick(x), pick(tangent)


def avg_pool(
    x: jax.Array,
    *,
    window: Sequence[int],
    strides: Sequence[int],
    padding: Pads,
    count_include_pad: bool = False,
) -> jax.Array:
    """The mean of each window.

    Args:
      x: (batch, *spatial, channels), floating.
      window, strides: one int for each spatial axis.
      padding: ``"VALID"``, ``"SAME"``, or a (low, high) for each spatial axis.
      count_include_pad: divide by the window's size also where it reaches into the padding.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``; sums are taken in float32 at least.
    """
    wide = x.astype(at_least_float32(x.dtype))
    zero = np.array(0, wide.dtype)
    total = _windows(wide, zero, lax.add, window, strides, padding)
    if count_include_pad or padding == "VALID":
        return (total / math.prod(window)).astype(x.dtype)
    ones = jnp.ones((1, *x.shape[1:-1], 1), wide.dtype)
    count = _windows(ones, zero, lax.add, window, strides, padding)
    return (total / jnp.broadcast_to(count, total.shape)).astype(x.dtype)


def _windows(
    x: jax.Array,
    start: np.ndarray,
    combine: Callable[..., jax.Array],
    window: Sequence[int],
    strides: Sequence[int],
    padding: Pads,
) -> jax.Array:
    if not isinstance(padding, str):
        padding = ((0, 0), *padding, (0, 0))
    return lax.reduce_window(  # type: ignore[no-any-return]
        x, start, combine, (1, *window, 1), (1, *strides, 1), padding
    )
