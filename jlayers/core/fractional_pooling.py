"""Max pools of windows at irregular places, some of them random (Graham, 2014, arXiv:1412.6071)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .global_pooling import max_axis_1


def fractional_max_pool(
    x: jax.Array, samples: jax.Array, *, window_shape: Sequence[int], sizes: Sequence[int]
) -> jax.Array:
    """The largest values of windows at pseudorandom places, which differ by whole pixels.

    Window i of n begins at ``floor((i + u) * a) - floor(u * a)`` for ``a = (size - window) / (n -
    1)``, and the last one ends with the image, as in PyTorch.

    Args:
      x: (batch, *spatial, channels), floating or integer.
      samples: (batch, channels, rank), the numbers u, from 0 up to, not including, 1.
      window_shape, sizes: of the windows and of the output, one for each spatial axis.

    Returns:
      (batch, *sizes, channels), of the dtype of ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x, u = jnp.arange(6.0).reshape(1, 6, 1), jnp.full((1, 1, 1), 0.5)
    >>> jl.core.fractional_max_pool(x, u, window_shape=(2,), sizes=(4,)).ravel().tolist()
    [1.0, 3.0, 4.0, 5.0]
    """
    rank = x.ndim - 2
    # The last axis first, so that the first of equal values is found in row-major order.
    for axis in reversed(range(rank)):
        size, window, count = x.shape[axis + 1], window_shape[axis], sizes[axis]
        first = _first_pixels(samples[..., axis], size - window, count)
        offsets = jnp.arange(window, dtype=first.dtype)
        # (batch, count * window, channels), and on the other axes one for all.
        pixels = jnp.swapaxes(first, 1, 2)[:, :, None] + offsets[None, None, :, None]
        flat = pixels.reshape(x.shape[0], count * window, x.shape[-1])
        index = jnp.expand_dims(flat, [i + 1 for i in range(rank) if i != axis])
        parts = jnp.take_along_axis(x, index, axis + 1, mode="clip")
        parts = parts.reshape(*x.shape[: axis + 1], count, window, *x.shape[axis + 2 :])
        x = max_axis_1(jnp.moveaxis(parts, axis + 2, 1))
    return x


def _first_pixels(samples: jax.Array, last: int, count: int) -> jax.Array:
    """Where the windows along an axis begin, int32 (batch, channels, count)."""
    u = samples[..., None]
    step = np.asarray(last / max(count - 1, 1), samples.dtype)
    i = jnp.arange(count, dtype=samples.dtype)[None, None]
    first = jnp.floor((i + u) * step) - jnp.floor(u * step)
    return jnp.where(i == count - 1, last, jnp.clip(first, 0, last)).astype(jnp.int32)
