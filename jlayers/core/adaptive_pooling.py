"""Pools by the size of their output: the windows divide an axis as evenly as whole pixels allow.

Output i of n covers the pixels from ``floor(i * size / n)`` up to, not including,
``ceil((i + 1) * size / n)``: windows of one or two lengths, which overlap where n does not divide
the size. Where it does they are those of an ordinary pool, and are computed as one.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .bands import Band, along_axes
from .dispatch import traced_once
from .dtypes import at_least_float32, is_symbolic
from .global_pooling import max_axis_1
from .pooling import avg_pool, max_pool


@traced_once("sizes")
def adaptive_avg_pool(x: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """The means of windows that divide each spatial axis evenly.

    Args:
      x: (batch, *spatial, channels), floating.
      sizes: of the output, one for each spatial axis; they may be larger than those of ``x``.

    Returns:
      (batch, *sizes, channels), of the dtype of ``x``; sums are taken in float32 at least.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 3.0, 8.0]).reshape(1, 3, 1)
    >>> jl.core.adaptive_avg_pool(x, (2,)).ravel().tolist()
    [2.0, 5.5]
    """
    whole = [_divides(n, size) for n, size in zip(x.shape[1:-1], sizes, strict=True)]
    y = x.astype(at_least_float32(x.dtype))
    bands: dict[int, Band] = {}
    for axis, (n, size, divides) in enumerate(zip(x.shape[1:-1], sizes, whole, strict=True), 1):
        if is_symbolic(n) and divides and size == 1:
            y = jnp.mean(y, axis, keepdims=True)
        elif not divides:
            bands[axis] = area_weights(n, size)
    y = along_axes(y, bands)
    window = [
        n // size if d and not is_symbolic(n) else 1
        for n, size, d in zip(x.shape[1:-1], sizes, whole, strict=True)
    ]
    if any(k > 1 for k in window):
        y = avg_pool(y, window_shape=window, strides=window, padding="VALID")
    return y.astype(x.dtype)


def adaptive_max_pool(x: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """The largest values of windows that divide each spatial axis evenly.

    Of equal values the first one receives the gradient.

    Args:
      x: (batch, *spatial, channels), floating or integer.
      sizes: as for ``adaptive_avg_pool``.

    Returns:
      (batch, *sizes, channels), of the dtype of ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 3.0, 8.0]).reshape(1, 3, 1)
    >>> jl.core.adaptive_max_pool(x, (2,)).ravel().tolist()
    [3.0, 8.0]
    """
    pairs = [*zip(x.shape[1:-1], sizes, strict=True)]
    if all(_divides(n, size) for n, size in pairs) and not is_symbolic(*x.shape[1:-1]):
        window = [n // size for n, size in pairs]
        return max_pool(x, window_shape=window, strides=window, padding="VALID")
    # The last axis first, so that the first of equal values is found in row-major order.
    for axis in reversed(range(1, x.ndim - 1)):
        n, size = pairs[axis - 1]
        if size is n or (not is_symbolic(n) and size == n):
            continue
        if size == 1:
            parts = jnp.expand_dims(x, axis)
        else:
            parts = jnp.take(x, adaptive_places(n, size), axis)
        x = max_axis_1(jnp.moveaxis(parts, axis + 1, 1))
    return x


def _divides(n: int, size: int) -> bool:
    return size is n or size == 1 or (not is_symbolic(n, size) and n % size == 0)


def _bounds(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    i = np.arange(size)
    return i * n // size, -(-(i + 1) * n // size)


def area_weights(n: int, size: int) -> Band:
    """The matrix (size, n) of the means."""
    starts, stops = _bounds(n, size)
    rows = [
        dict.fromkeys(range(start, stop), 1 / (stop - start))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    ]
    return Band.of(rows, n)


def adaptive_places(n: int, size: int) -> np.ndarray:
    """The pixels of each window, (size, most), the last one repeated in those that are shorter."""
    start, stop = (bound[:, None] for bound in _bounds(n, size))
    return np.asarray(np.minimum(start + np.arange((stop - start).max()), stop - 1))
