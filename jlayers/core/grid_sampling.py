"""Images read at places that are computed: each value a weighted sum of the pixels around a place.

How to read this file: ``sample`` reads at places in pixels, ``grid_sample`` at places from -1 to 1,
and ``affine_grid`` makes such places. ``_taps`` says which pixels along one axis a place is made
of, and with which weights; a pixel of the image is a tap of each axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from .dtypes import at_least_float32

METHODS = ("nearest", "linear", "cubic")
MODES = ("constant", "replicate", "reflect")
COORDINATES = ("half_pixel", "align_corners")


def grid_sample(
    x: jax.Array,
    grid: jax.Array,
    *,
    method: str = "linear",
    mode: str = "constant",
    coordinates: str = "half_pixel",
) -> jax.Array:
    """Images read at the places of a grid (Jaderberg et al., 2015, arXiv:1506.02025).

    Args:
      x: (batch, *spatial, channels), floating.
      grid: (batch, *out, rank), places from -1 to 1, the last spatial axis of ``x`` first: (x, y)
        for images, as in PyTorch.
      method: ``"nearest"``, ``"linear"`` or ``"cubic"``.
      mode: what lies beyond the edges: ``"constant"`` zeros, ``"replicate"`` the outermost pixels,
        ``"reflect"`` the image reflected at its edges, or with ``"align_corners"`` at the centres
        of its outermost pixels.
      coordinates: what -1 and 1 are: ``"half_pixel"`` the edges of the image, ``"align_corners"``
        the centres of its outermost pixels.

    Returns:
      (batch, *out, channels), of the dtype of ``x``; places and sums are in float32 at least. NaN
      at a place that is NaN.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x, grid = jnp.array([1.0, 3.0]).reshape(1, 2, 1), jnp.array([0.0, 2.0]).reshape(1, 2, 1)
    >>> jl.core.grid_sample(x, grid).ravel().tolist()
    [2.0, 0.0]
    """
    wide = at_least_float32(x.dtype)
    aligned = coordinates == "align_corners"
    places = []
    for axis, n in enumerate(x.shape[1:-1]):
        unit = grid[..., x.ndim - 3 - axis].astype(wide)
        places.append((unit + 1) * ((n - 1) / 2) if aligned else ((unit + 1) * n - 1) / 2)
    return sample(x, places, method=method, mode=mode, aligned=aligned)


def affine_grid(
    theta: jax.Array, sizes: Sequence[int], *, coordinates: str = "half_pixel"
) -> jax.Array:
    """The grid of an affine map, for ``grid_sample``.

    Args:
      theta: (batch, rank, rank + 1), floating; the last spatial axis first, as in PyTorch.
      sizes: of the output, one for each spatial axis.
      coordinates: as for ``grid_sample``.

    Returns:
      (batch, *sizes, rank).

    >>> import jax.numpy as jnp, jlayers as jl
    >>> theta = jnp.array([[[1.0, 0.5]]])  # half of the image to the right
    >>> jl.core.affine_grid(theta, (2,)).ravel().tolist()
    [0.0, 1.0]
    """
    axes = []
    for n in sizes:
        steps = jnp.arange(n, dtype=theta.dtype)
        if coordinates == "align_corners":
            axes.append(steps * (2 / max(n - 1, 1)) - (1 if n > 1 else 0))
        else:
            axes.append((2 * steps + 1) / n - 1)
    places = jnp.meshgrid(*axes, indexing="ij")[::-1]
    ones = jnp.ones_like(places[0])
    base = jnp.stack([*places, ones], -1)
    return jnp.einsum("...j,bij->b...i", base, theta, precision=lax.Precision.HIGHEST)


def sample(
    x: jax.Array,
    places: Sequence[jax.Array],
    *,
    method: str = "linear",
    mode: str = "constant",
    aligned: bool = False,
) -> jax.Array:
    """Images read at places in pixels, 0 the centre of the first one.

    Args:
      x: (batch, *spatial, channels).
      places: for each spatial axis (batch, *out).
      method, mode: as for ``grid_sample``.
      aligned: whether ``"reflect"`` is at the centres of the outermost pixels.

    Returns:
      (batch, *out, channels), of the dtype of ``x``.
    """
    sizes, out = x.shape[1:-1], places[0].shape[1:]
    batch, count = x.shape[0], math.prod(out)
    flat = x.reshape(batch, math.prod(sizes), x.shape[-1])
    taps = [
        _taps(place.reshape(batch, count), n, method, mode, aligned)
        for place, n in zip(places, sizes, strict=True)
    ]
    total: jax.Array | None = None
    for corner in itertools.product(*taps):
        pixels, weights = zip(*corner, strict=True)
        index, weight = pixels[0], weights[0]
        for n, pixel, part in zip(sizes[1:], pixels[1:], weights[1:], strict=True):
            index, weight = index * n + pixel, weight * part
        values = jnp.take_along_axis(flat, index[..., None], 1, mode="clip")
        term = values.astype(weight.dtype) * weight[..., None]
        total = term if total is None else total + term
    assert total is not None
    return total.astype(x.dtype).reshape(batch, *out, x.shape[-1])


def _taps(
    place: jax.Array, n: int, method: str, mode: str, aligned: bool
) -> list[tuple[jax.Array, jax.Array]]:
    """The pixels along an axis around each place, int32, with their weights."""
    # For the cubic each pixel is brought inside, elsewhere the place between them.
    if method != "cubic":
        place = _inside(place, n, mode, aligned)
    if method == "nearest":
        # Of two that are as near the even one, as in PyTorch.
        pixels, weights = [jnp.round(place)], [jnp.ones_like(place)]
    else:
        first = jnp.floor(place)
        rest = place - first
        if method == "linear":
            pixels, weights = [first, first + 1], [1 - rest, rest]
        else:
            pixels = [first + i for i in range(-1, 3)]
            weights = [_cubic(rest + 1), _cubic(rest), _cubic(1 - rest), _cubic(2 - rest)]
            pixels = [_inside(pixel, n, mode, aligned) for pixel in pixels]
    # NaN where the place is, else 0; squared, so that its gradient is NaN as well.
    lost = jnp.where(jnp.isnan(place), place, jnp.zeros_like(place))
    return [
        _bounded(lax.stop_gradient(pixel), weight, lost * lost, n)
        for pixel, weight in zip(pixels, weights, strict=True)
    ]


def _bounded(
    pixel: jax.Array, weight: jax.Array, lost: jax.Array, n: int
) -> tuple[jax.Array, jax.Array]:
    """A pixel of the image, of weight 0 where it lies outside, and NaN where its place is."""
    known = (pixel >= 0) & (pixel <= n - 1)
    weight = jnp.where(known, weight, lost)
    return jnp.where(known, pixel, 0).astype(jnp.int32), weight


def _inside(place: jax.Array, n: int, mode: str, aligned: bool) -> jax.Array:
    if mode == "constant":
        return place
    if mode == "reflect":
        low, span = (0.0, n - 1) if aligned else (-0.5, n)
        if span == 0:
            return jnp.zeros_like(place)
        distance = jnp.abs(place - low)
        turns = jnp.floor(distance / span)
        rest = distance - turns * span
        place = jnp.where(turns % 2 == 0, rest + low, span - rest + low)
    return jnp.clip(place, 0, n - 1)


def _cubic(distance: jax.Array) -> jax.Array:
    """Keys' kernel with -0.75, as in PyTorch, for distances from 0 to 2."""
    a, d = -0.75, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return jnp.where(d <= 1, near, far)
