"""Images in other sizes: each output a weighted sum of the inputs near its place, axis by axis.

How to read this file: ``_around`` says which inputs an output is made of, and with which weights.
They are the rows of a matrix, ``weights``, with which ``bands.py`` multiplies on CPU. On other
platforms, and where a size is not known, ``_resize_axis`` does so in one of two ways. Where an axis
becomes an integer number of times as large, the weights repeat: ``_by_phases`` sums shifted images,
one sum for each output between two inputs. Otherwise ``by_matrix`` has all of the matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .adaptive_pooling import adaptive_avg_pool
from .bands import Band, along_axes, by_matrix
from .custom_gradient import with_custom_gradient
from .dispatch import traced_once
from .dtypes import at_least_float32, is_sharded, is_symbolic

METHODS = ("nearest", "linear", "cubic", "area", "lanczos3", "lanczos5")
COORDINATES = ("half_pixel", "align_corners", "asymmetric")
ROUNDINGS: dict[str, Callable[[float], int]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "half_up": lambda place: math.floor(place + 0.5),
    "half_down": lambda place: math.ceil(place - 0.5),
}


class Interpolation(NamedTuple):
    """How values between pixels are made.

    Args:
      method: one of ``METHODS``; ``"area"`` is ``adaptive_avg_pool``, whatever the rest says.
      coordinates: one of ``COORDINATES``, where an output lies among the inputs. ``"half_pixel"``:
        the images have the same edges. ``"align_corners"``: the centres of their first and last
        pixels are the same. ``"asymmetric"``: the first edges alone, output i at ``i * in / out``.
      antialias: whether the weights are spread over as many inputs as an output covers, where the
        image becomes smaller.
      coefficient: of the cubic; -0.75 in PyTorch, -0.5 in JAX, and in PyTorch with antialiasing.
      exclude_outside: whether the weights of pixels beyond the edges are left out, and the others
        divided by their sum; otherwise the outermost pixels are repeated. By default with
        antialiasing and with Lanczos kernels alone.
      rounding: one of ``ROUNDINGS``, of the place of a ``"nearest"`` neighbour; by default
        ``"floor"`` with ``"asymmetric"``, and ``"half_up"`` else.
    """

    method: str
    coordinates: str = "half_pixel"
    antialias: bool = False
    coefficient: float = -0.75
    exclude_outside: bool | None = None
    rounding: str | None = None


def resize(
    x: jax.Array,
    sizes: Sequence[int],
    interpolation: Interpolation,
    scales: Sequence[float | None] | None = None,
) -> jax.Array:
    """``x`` with spatial axes of other sizes.

    Args:
      x: (batch, *spatial, channels), floating; of any dtype for ``"nearest"``.
      sizes: one for each spatial axis.
      interpolation: how values between pixels are made.
      scales: for each spatial axis, how many pixels of ``x`` lie between two outputs; by default,
        or for None, its size over the new one. Not for ``"align_corners"`` and ``"area"``.

    Returns:
      (batch, *sizes, channels), of the dtype of ``x``; sums are taken in float32 at least.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jnp.array([1.0, 3.0]).reshape(1, 2, 1)
    >>> jl.core.resize(x, (4,), jl.core.Interpolation("linear")).ravel().tolist()
    [1.0, 1.5, 2.5, 3.0]
    """
    return _resize(x, tuple(sizes), interpolation, None if scales is None else tuple(scales))


@traced_once("sizes", "interpolation", "scales")
def _resize(
    x: jax.Array,
    sizes: tuple[int, ...],
    interpolation: Interpolation,
    scales: tuple[float | None, ...] | None,
) -> jax.Array:
    if interpolation.method == "area":
        return adaptive_avg_pool(x, sizes)
    # The smaller of the results first: an axis that shrinks before one that grows.
    known = not is_symbolic(*x.shape[1:-1], *sizes)
    axes = range(1, x.ndim - 1)
    order = sorted(axes, key=lambda axis: sizes[axis - 1] / x.shape[axis]) if known else axes
    changes = [
        _Change(axis, sizes[axis - 1], None if scales is None else scales[axis - 1])
        for axis in order
    ]
    changes = [change for change in changes if not _stays(x, change, interpolation)]

    def one_by_one(x: jax.Array) -> jax.Array:
        for change in changes:
            x = _resize_axis(x, change, interpolation)
        return x

    # Whole numbers are moved as they are.
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return one_by_one(x)
    y = x.astype(at_least_float32(x.dtype))
    if known:
        bands = {
            axis: weights(x.shape[axis], size, interpolation, scale)
            for axis, size, scale in changes
        }
        return along_axes(y, bands, one_by_one).astype(x.dtype)
    return one_by_one(y).astype(x.dtype)


class _Change(NamedTuple):
    """A new size of an axis, and how many pixels lie between two of its outputs."""

    axis: int
    size: int
    scale: float | None


def _own_scale(x: jax.Array, change: _Change, interpolation: Interpolation) -> bool:
    """Whether the outputs are other than spread out over the axis."""
    axis, size, scale = change
    aligned = interpolation.coordinates == "align_corners"
    return scale is not None and not aligned and scale * size != x.shape[axis]


def _stays(x: jax.Array, change: _Change, interpolation: Interpolation) -> bool:
    # With aligned corners the identity too, and the place of a single output is that of the first.
    return change.size == x.shape[change.axis] and not _own_scale(x, change, interpolation)


def _resize_axis(x: jax.Array, change: _Change, interpolation: Interpolation) -> jax.Array:
    axis, size, scale = change
    before = x.shape[axis]
    repeats = not _own_scale(x, change, interpolation) and weights_repeat(interpolation)
    # Of sharded axes JAX merges none by itself.
    if repeats and size % before == 0 and not is_sharded(x):
        return _by_phases(x, axis, size // before, interpolation)
    band = weights(before, size, interpolation, scale)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.take(x, band.starts + band.entries.argmax(1), axis)
    return by_matrix(x, axis, band.dense())


def weights_repeat(interpolation: Interpolation) -> bool:
    """Whether all outputs between two inputs have the same weights, where a factor is whole."""
    # With weights for what lies inside alone, the edges have weights of their own.
    aligned = interpolation.coordinates == "align_corners"
    return not aligned and interpolation.method != "area" and not _leaves_out(interpolation)


def _leaves_out(interpolation: Interpolation) -> bool:
    """Whether it matters, where an image grows, that pixels beyond the edges are left out."""
    # The weights of a nearest or linear neighbour beyond the edge are the same either way.
    return _excludes_outside(interpolation) and interpolation.method not in ("nearest", "linear")


def _excludes_outside(interpolation: Interpolation) -> bool:
    if interpolation.exclude_outside is not None:
        return interpolation.exclude_outside
    return interpolation.antialias or interpolation.method.startswith("lanczos")


def _by_phases(x: jax.Array, axis: int, factor: int, interpolation: Interpolation) -> jax.Array:
    """``factor`` outputs for each input, made of the same neighbours with the same weights.

    The gradient is the product with the transposed matrix: differentiated as they are, slices are
    added up one by one.
    """
    plain = functools.partial(_sum_of_phases, axis=axis, factor=factor, interpolation=interpolation)
    one = all(len(part) == 1 for _, part in _phases(factor, interpolation))
    if one or is_symbolic(x.shape[axis]) or not jnp.issubdtype(x.dtype, jnp.floating):
        return plain(x)

    def backward(arguments: tuple[jax.Array, ...], _: None, ct: jax.Array) -> tuple[jax.Array]:
        size = x.shape[axis]
        return (by_matrix(ct, axis, weights(size, size * factor, interpolation).dense().T),)

    return with_custom_gradient(lambda x: (plain(x), None), backward)(x)


def _phases(factor: int, interpolation: Interpolation) -> list[tuple[int, np.ndarray]]:
    return [_of_phase(r, factor, interpolation) for r in range(factor)]


def _sum_of_phases(
    x: jax.Array, *, axis: int, factor: int, interpolation: Interpolation
) -> jax.Array:
    size = x.shape[axis]
    phases = _phases(factor, interpolation)
    first = min(start for start, _ in phases)
    last = max(start + len(part) - 1 for start, part in phases)
    edges = [(0, 0)] * x.ndim
    edges[axis] = (max(-first, 0), max(last, 0))
    padded = jnp.pad(x, edges, "edge") if any(map(any, edges)) else x

    def shifted(offset: int) -> jax.Array:
        start = offset + max(-first, 0)
        return lax.slice_in_dim(padded, start, start + size, axis=axis)

    def phase(start: int, part: np.ndarray) -> jax.Array:
        terms = [
            shifted(start + i) if weight == 1 else shifted(start + i) * np.asarray(weight, x.dtype)
            for i, weight in enumerate(part)
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    y = jnp.stack([phase(*one) for one in phases], axis + 1)
    return y.reshape(*x.shape[:axis], size * factor, *x.shape[axis + 1 :])


def _of_phase(r: int, factor: int, interpolation: Interpolation) -> tuple[int, np.ndarray]:
    """The first neighbour of output ``r`` between two inputs, and the weights from it on."""
    half = 0.5 if interpolation.coordinates == "half_pixel" else 0.0
    place = (r + half) / factor - half
    return _around(place, interpolation, 1.0)


def _around(place: float, interpolation: Interpolation, stretch: float) -> tuple[int, np.ndarray]:
    """The inputs around a place, the first one and their weights, which sum to one."""
    method = interpolation.method
    if method == "nearest":
        # Of two that are as near, the later one: as floor((i + 0.5) * in / out) has it.
        usual = "floor" if interpolation.coordinates == "asymmetric" else "half_up"
        return ROUNDINGS[interpolation.rounding or usual](place), np.ones(1)
    kernel, reach = _KERNELS[method](interpolation.coefficient)
    first = math.floor(place - reach * stretch) + 1
    stop = math.ceil(place + reach * stretch)
    part = np.array([kernel(abs(i - place) / stretch) for i in range(first, max(stop, first + 1))])
    return first, part / part.sum()


def _linear(_: float) -> tuple[Callable[[float], float], float]:
    return lambda d: max(1 - d, 0.0), 1.0


def _cubic(a: float) -> tuple[Callable[[float], float], float]:
    """Cubic convolution (Keys, 1981, doi:10.1109/TASSP.1981.1163711)."""

    def kernel(d: float) -> float:
        if d <= 1:
            return ((a + 2) * d - (a + 3)) * d * d + 1
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0

    return kernel, 2.0


def _lanczos(radius: float) -> Callable[[float], tuple[Callable[[float], float], float]]:
    """A windowed sinc (Duchon, 1979, doi:10.1175/1520-0450(1979)018)."""

    def kernel(d: float) -> float:
        return float(np.sinc(d) * np.sinc(d / radius)) if d <= radius else 0.0

    return lambda _: (kernel, radius)


_KERNELS = {
    "linear": _linear,
    "cubic": _cubic,
    "lanczos3": _lanczos(3.0),
    "lanczos5": _lanczos(5.0),
}


def weights(
    before: int, size: int, interpolation: Interpolation, scale: float | None = None
) -> Band:
    """The matrix (size, before) from the inputs of an axis to its outputs."""
    rows: list[dict[int, float]] = []
    scale = before / size if scale is None else scale
    stretch = max(scale, 1.0) if interpolation.antialias else 1.0
    for i in range(size):
        place = {
            "half_pixel": (i + 0.5) * scale - 0.5,
            "align_corners": i * (before - 1) / (size - 1) if size > 1 else 0.0,
            "asymmetric": i * scale,
        }[interpolation.coordinates]
        first, part = _around(place, interpolation, stretch)
        inside = {k: weight for k, weight in enumerate(part, first) if 0 <= k < before}
        if _excludes_outside(interpolation) and inside:
            total = sum(inside.values())
            rows.append({k: weight / total for k, weight in inside.items()})
            continue
        row: dict[int, float] = {}
        for k, weight in enumerate(part, first):
            nearest = min(max(k, 0), before - 1)
            row[nearest] = row.get(nearest, 0.0) + weight
        rows.append(row)
    return Band.of(rows, before)
