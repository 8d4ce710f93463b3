"""How a kernel moves over an image, and what each of its taps sees."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Geometry(NamedTuple):
    """How a kernel moves over an image: one entry for each spatial axis."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1


def channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Dimension numbers of images and kernels with ``rank`` spatial axes."""
    spatial = tuple(range(1, rank + 1))
    image = (0, rank + 1, *spatial)
    kernel = (rank + 1, rank, *range(rank))
    return lax.ConvDimensionNumbers(image, kernel, image)


def direct(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=how.strides,
        padding=how.padding,
        rhs_dilation=how.dilation,
        dimension_numbers=channels_last(x.ndim - 2),
        feature_group_count=how.groups,
    )


def padded_image(x: jax.Array, how: Geometry) -> jax.Array:
    """``x`` with its padding, if there is any."""
    if not any(any(pads) for pads in how.padding):
        return x
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, [(0, 0, 0), *((*pads, 0) for pads in how.padding), (0, 0, 0)])


def out_size(padded: jax.Array, kernel: jax.Array, how: Geometry) -> tuple[int, ...]:
    """The spatial shape of the result, for an image with its padding."""
    axes = zip(padded.shape[1:-1], kernel.shape, how.strides, how.dilation, strict=False)
    return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes)


def tap_sees(
    padded: jax.Array, at: tuple[int, ...], size: tuple[int, ...], how: Geometry
) -> jax.Array:
    """What the tap ``at`` of the kernel sees: (batch, *size, in)."""
    start = [i * d for i, d in zip(at, how.dilation, strict=True)]
    stop = [i + (n - 1) * s + 1 for i, n, s in zip(start, size, how.strides, strict=True)]
    return lax.slice(
        padded,
        (0, *start, 0),
        (padded.shape[0], *stop, padded.shape[-1]),
        (1, *how.strides, 1),
    )


def taps_see(
    x: jax.Array, kernel: jax.Array, how: Geometry
) -> Iterator[tuple[tuple[int, ...], jax.Array]]:
    """All taps of the kernel with what each sees."""
    padded = padded_image(x, how)
    size = out_size(padded, kernel, how)
    for at in itertools.product(*map(range, kernel.shape[:-2])):
        yield at, tap_sees(padded, at, size, how)
