"""The weighted mean of each window, with the weights of a binomial: a blur before strides."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from .dtypes import at_least_float32
from .windows import Padding, Windows, explicit_padding


def blur_pool(
    x: jax.Array, *, window_shape: Sequence[int], strides: Sequence[int], padding: Padding
) -> jax.Array:
    """The mean of each window, weighted by binomial coefficients along each axis.

    Args:
      x: (batch, *spatial, channels), floating.
      window_shape, strides: one int for each spatial axis.
      padding: a name, or for each spatial axis a name or a (low, high); with zeros.

    Returns:
      (batch, *spatial', channels), of the dtype of ``x``; sums are taken in float32 at least.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([4.0, 0.0, 8.0]).reshape(1, 3, 1)
    >>> jl.core.blur_pool(x, window_shape=(3,), strides=(1,), padding="VALID").ravel().tolist()
    [3.0]
    """
    pads = explicit_padding(x, window_shape, strides, padding)
    windows = Windows(tuple(window_shape), tuple(strides), pads, (1,) * len(pads))
    y = x.astype(at_least_float32(x.dtype))
    for axis, size in enumerate(window_shape):
        parts = windows.along(axis).slices(y, np.zeros((), y.dtype))
        weights = binomial(size).astype(y.dtype)
        y = sum(part * weight for part, weight in zip(parts, weights, strict=True))
    return y.astype(x.dtype)


def binomial(size: int) -> np.ndarray:
    """The coefficients of ``(a + b) ** (size - 1)``, divided by their sum.

    >>> binomial(3).tolist()
    [0.25, 0.5, 0.25]
    """
    weights = np.ones(1)
    for _ in range(size - 1):
        weights = np.convolve(weights, [0.5, 0.5])
    return weights
