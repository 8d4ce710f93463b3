"""Convolutions whose kernel elements read where offsets say, between pixels."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from .conv.geometry import Geometry
from .dtypes import at_least_float32


def deformable_conv(
    x: jax.Array,
    kernel: jax.Array,
    offsets: jax.Array,
    modulation: jax.Array | None,
    geometry: Geometry,
) -> jax.Array:
    """``y[p] = sum_k m[p, k] x[strides * p + dilation * k + offset[p, k]] @ kernel[k]``.

    Between pixels ``x`` is linear along each axis, and zero beyond its edges.

    Args:
      x: (batch, *spatial, in).
      kernel: (*kernel_size, in / groups, out).
      offsets: (batch, *spatial', offset_groups * elements * rank), in pixels.
      modulation: (batch, *spatial', offset_groups * elements), or None for ones.

    Returns:
      (batch, *spatial', out).
    """
    batch, *sizes, channels = x.shape
    *out, _ = offsets.shape[1:]
    rank, elements = len(sizes), math.prod(kernel.shape[:-2])
    groups = offsets.shape[-1] // (elements * rank)
    wide = at_least_float32(x.dtype)
    offsets = offsets.astype(wide).reshape(batch, *out, groups, elements, rank)
    # (batch, *out, offset groups, elements), for each axis
    places = [
        offsets[..., axis] + _regular(axis, out, kernel.shape, geometry, wide)
        for axis in range(rank)
    ]
    sampled = _sample(x, places, groups)
    if modulation is not None:
        sampled = sampled * modulation.astype(wide).reshape(batch, *out, groups, elements, 1)
    # Channels of an offset group, then those of a group of the convolution.
    # One change at a time: a reshape of all at once is not defined for arrays that are sharded.
    sampled = jnp.moveaxis(sampled, -2, -3).reshape(batch, *out, elements, channels)
    sampled = sampled.reshape(*sampled.shape[:-1], geometry.groups, channels // geometry.groups)
    weights = kernel.astype(wide).reshape(
        elements, channels // geometry.groups, geometry.groups, kernel.shape[-1] // geometry.groups
    )
    y = jnp.einsum("...kgc,kcgf->...gf", sampled, weights)
    return y.reshape(batch, *out, kernel.shape[-1]).astype(x.dtype)


def _regular(
    axis: int,
    out: list[int],
    kernel: tuple[int, ...],
    geometry: Geometry,
    dtype: jax.typing.DTypeLike,
) -> jax.Array:
    """Where an ordinary convolution reads along ``axis``: (*out, 1, elements), to be broadcast."""
    rank = len(out)
    low = geometry.padding[axis][0]
    starts = jnp.arange(out[axis], dtype=dtype) * geometry.strides[axis] - low
    steps = np.indices(kernel[:rank])[axis].reshape(-1) * geometry.dilation[axis]
    starts = starts.reshape(*(-1 if a == axis else 1 for a in range(rank)), 1, 1)
    shape = (*(out[axis] if a == axis else 1 for a in range(rank)), 1, steps.size)
    places = jnp.broadcast_to(starts, shape) + jnp.broadcast_to(jnp.asarray(steps, dtype), shape)
    return jnp.broadcast_to(places[None], (1, *out, 1, steps.size))


def _sample(x: jax.Array, places: list[jax.Array], groups: int) -> jax.Array:
    """The image between its pixels: (batch, *out, groups, elements, channels / groups)."""
    batch, *sizes, channels = x.shape
    wide = places[0].dtype
    image = x.astype(wide).reshape(batch, *sizes, groups, channels // groups)
    lows = [jnp.floor(place) for place in places]
    total = None
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        weight, index = None, []
        for size, place, low, more in zip(sizes, places, lows, corner, strict=True):
            at = low + more
            part = 1 - jnp.abs(place - at)
            # Beyond the edges there are zeros; clipped, so that the index is one. NaN stays, or an
            # error in the offsets would not be seen.
            lost = jnp.isnan(place)
            part = jnp.where((at >= 0) & (at <= size - 1) | lost, part, jnp.zeros_like(part))
            weight = part if weight is None else weight * part
            index.append(jnp.where(lost, 0, jnp.clip(at, 0, size - 1)).astype(jnp.int32))
        assert weight is not None
        pixels = jax.vmap(_take)(image, index)
        term = pixels * weight[..., None]
        total = term if total is None else total + term
    assert total is not None
    return total


def _take(image: jax.Array, index: list[jax.Array]) -> jax.Array:
    """Of (*spatial, groups, channels), the pixels at ``index``, each (*out, groups, elements)."""
    groups = jnp.arange(image.shape[-2])[:, None]
    return image[(*index, jnp.broadcast_to(groups, index[0].shape))]
