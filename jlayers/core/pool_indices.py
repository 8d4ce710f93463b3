"""Where the largest value of each window is, and values put back there.

An index counts the pixels of a channel in row-major order, as in PyTorch. Windows are given by the
places of their pixels along each axis, so that those of adaptive pools are windows like others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .windows import Windows


def window_places(windows: Windows, sizes: Sequence[int]) -> list[np.ndarray]:
    """For each spatial axis the pixels of each window, (outputs, most).

    In place of padding stands the first pixel of the window: it changes neither the largest value
    nor which pixel is the first to have it.
    """
    places: list[np.ndarray] = []
    for n, k, s, (low, high), d in zip(sizes, *windows, strict=True):
        count = (n + low + high - d * (k - 1) - 1) // s + 1
        grid = np.arange(count)[:, None] * s - low + np.arange(k) * d
        inside = (grid >= 0) & (grid < n)
        first = np.take_along_axis(grid, inside.argmax(1)[:, None], 1)
        places.append(np.where(inside, grid, first))
    return places


def indices_of_max(x: jax.Array, places: Sequence[np.ndarray]) -> jax.Array:
    """The index of the first of the largest values of each window.

    Args:
      x: (batch, *spatial, channels).
      places: for each spatial axis the pixels of each window, (outputs, most).

    Returns:
      int32 (batch, *outputs, channels).
    """
    # No gradient, and none through the values that are compared.
    x = jnp.asarray(lax.stop_gradient(x))
    steps = [math.prod(x.shape[axis + 1 : -1]) for axis in range(1, x.ndim - 1)]
    index: jax.Array | None = None
    # The last axis first, so that the first of equal values is found in row-major order.
    for axis in reversed(range(1, x.ndim - 1)):
        windows = places[axis - 1]
        parts = jnp.take(x, windows, axis)
        best = jnp.argmax(parts, axis + 1, keepdims=True)
        chosen = lax.broadcasted_iota(best.dtype, parts.shape, axis + 1) == best
        here = jnp.asarray(windows * steps[axis - 1], jnp.int32)
        own = lax.broadcast_in_dim(here, parts.shape, (axis, axis + 1))
        if index is not None:
            own = own + jnp.take(index, windows, axis)
        index = jnp.sum(jnp.where(chosen, own, 0), axis + 1, dtype=jnp.int32)
        x = jnp.max(parts, axis + 1)
    assert index is not None
    return index


def max_unpool(y: jax.Array, indices: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """An image of zeros, with each value of a pool where its index says.

    Args:
      y: (batch, *outputs, channels).
      indices: integers of that shape, below the product of ``sizes``.
      sizes: of the image, one for each spatial axis.

    Returns:
      (batch, *sizes, channels), of the dtype of ``y``. Of several values for one pixel, one is
      there, and it alone has a gradient. An index beyond the image is left out.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> y, indices = jnp.array([5.0, 4.0]).reshape(1, 2, 1), jnp.array([1, 3]).reshape(1, 2, 1)
    >>> jl.core.max_unpool(y, indices, (4,)).ravel().tolist()
    [0.0, 5.0, 0.0, 4.0]
    """
    batch, channels, pixels = y.shape[0], y.shape[-1], math.prod(sizes)
    flat = (batch, math.prod(y.shape[1:-1]), channels)
    values, places = y.reshape(flat), indices.reshape(flat)

    def put(values: jax.Array, places: jax.Array) -> jax.Array:
        return jnp.zeros(pixels, values.dtype).at[places].set(values)

    image: jax.Array = jax.vmap(jax.vmap(put, -1, -1))(values, places)
    return image.reshape(batch, *sizes, channels)
