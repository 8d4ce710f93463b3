"""Images cut into the patches that windows see, and put together again from them."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .padding import Amounts
from .windows import pad_or_crop


def unfold(
    x: jax.Array,
    window_shape: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Amounts,
    dilation: tuple[int, ...],
) -> jax.Array:
    """The pixels of each window, side by side.

    Args:
      x: (batch, *spatial, channels).
      window_shape, strides, dilation: one int for each spatial axis.
      padding: (low, high) of zeros for each.

    Returns:
      (batch, *spatial', channels * elements): of each channel all elements of the window, in
      row-major order, as PyTorch's ``Unfold`` has them.
    """
    x = pad_or_crop(x, padding)
    axes = list(zip(x.shape[1:-1], window_shape, strides, dilation, strict=True))
    counts = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes]
    parts = []
    for offset in itertools.product(*map(range, window_shape)):
        first = [i * d for i, d in zip(offset, dilation, strict=True)]
        last = zip(first, counts, strides, strict=True)
        limits = (x.shape[0], *(at + (n - 1) * s + 1 for at, n, s in last), x.shape[-1])
        parts.append(lax.slice(x, (0, *first, 0), limits, (1, *strides, 1)))
    y = jnp.stack(parts, -1)
    return y.reshape(*y.shape[:-2], x.shape[-1] * len(parts))


def fold(
    x: jax.Array,
    window_shape: tuple[int, ...],
    strides: tuple[int, ...],
    padding: Amounts,
    dilation: tuple[int, ...],
) -> jax.Array:
    """The sum of all patches at their places, the transpose of ``unfold``.

    Args:
      x: (batch, *blocks, channels * elements).
      window_shape, strides, dilation: those of ``unfold``.
      padding: (low, high) for each spatial axis, as of a transposed convolution: a window of extent
        e and (e - 1, e - 1) gives all pixels of all patches, less of it cuts their edges off.

    Returns:
      (batch, *spatial, channels).
    """
    elements = math.prod(window_shape)
    parts = x.reshape(*x.shape[:-1], x.shape[-1] // elements, elements)
    extents = [d * (k - 1) + 1 for k, d in zip(window_shape, dilation, strict=True)]
    total = None
    for i, offset in enumerate(itertools.product(*map(range, window_shape))):
        axes = zip(offset, dilation, extents, strides, strict=True)
        config = [(at * d, e - 1 - at * d, s - 1) for at, d, e, s in axes]
        part = lax.index_in_dim(parts, i, axis=-1, keepdims=False)
        part = lax.pad(part, np.zeros((), x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
        total = part if total is None else total + part
    assert total is not None
    edges = zip(padding, extents, strict=True)
    return pad_or_crop(total, [(low - (e - 1), high - (e - 1)) for (low, high), e in edges])
