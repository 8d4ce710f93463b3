"""Boxes of images as images of one size, read between the pixels."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .dtypes import at_least_float32
from .grid_sampling import sample


def roi_align(
    x: jax.Array,
    boxes: jax.Array,
    sizes: Sequence[int],
    *,
    samples: Sequence[int],
    scale: float = 1.0,
    aligned: bool = True,
) -> jax.Array:
    """The means of the cells of each box (He et al., 2017, arXiv:1703.06870).

    A cell is the mean of ``samples`` values in each direction, each interpolated between pixels. A
    value more than a pixel outside the image is 0.

    Args:
      x: (batch, *spatial, channels), floating.
      boxes: (batch, boxes, 2 * rank): one corner, then the opposite one, the last spatial axis
        first: (x1, y1, x2, y2) for images.
      sizes: how many cells, for each spatial axis.
      samples: how many values in a cell, for each spatial axis.
      scale: by which the boxes are multiplied: the size of ``x`` over that of the image they are
        in.
      aligned: whether 0 is the edge of the first pixel; otherwise it is its centre, and boxes are
        of a pixel at least.

    Returns:
      (batch, boxes, *sizes, channels), of the dtype of ``x``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x, boxes = jnp.arange(4.0).reshape(1, 4, 1), jnp.array([[[1.0, 3.0]]])
    >>> jl.core.roi_align(x, boxes, (2,), samples=(1,)).ravel().tolist()
    [1.0, 2.0]
    """
    rank, (batch, count) = x.ndim - 2, boxes.shape[:2]
    corners = boxes.astype(at_least_float32(x.dtype)) * scale - (0.5 if aligned else 0.0)
    shape = (batch, count, *(n * k for n, k in zip(sizes, samples, strict=True)))
    places, inside = [], jnp.ones((), bool)
    for axis, (n, size, k) in enumerate(zip(x.shape[1:-1], sizes, samples, strict=True)):
        low, high = (corners[..., i * rank + rank - 1 - axis] for i in range(2))
        extent = high - low if aligned else jnp.maximum(high - low, 1)
        steps = (jnp.arange(size * k, dtype=low.dtype) + 0.5) / (size * k)
        # Each of the shape (batch, boxes, *spatial), as long as the cells along its axis alone.
        across = [2 + i for i in range(rank)]
        low, extent = jnp.expand_dims(low, across), jnp.expand_dims(extent, across)
        steps = jnp.expand_dims(steps, [i for i in range(2 + rank) if i != 2 + axis])
        place = jnp.broadcast_to(low + extent * steps, shape)
        places.append(place)
        inside = inside & (place >= -1) & (place <= n)
    values = sample(x, places, mode="replicate")
    values = jnp.where(inside[..., None], values, jnp.zeros_like(values))
    # One axis at a time: a reshape of all at once is not defined for arrays that are sharded.
    for axis, (size, k) in enumerate(zip(sizes, samples, strict=True), 2):
        parts = values.reshape(*values.shape[:axis], size, k, *values.shape[axis + 1 :])
        values = jnp.mean(parts, axis + 1, dtype=corners.dtype)
    return values.astype(x.dtype)
