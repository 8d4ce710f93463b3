"""Products of an image's axes with matrices of few entries a row, as resizing has them.

Each output is made of a few inputs side by side. On CPU it gathers them (``_gathered``), and so
does the gradient, by the transposed matrix; on other platforms, and where a row is long, the
product is that of the whole matrix (``by_matrix``). ``_is_narrow`` is the rule; its measurements
are in docs/notes/0017-the-library.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .custom_gradient import linear_op, on_cpu
from .dtypes import is_sharded, is_symbolic


class Band(NamedTuple):
    """A matrix (rows, columns), of whose entries the others are zeros.

    Attributes:
      starts: ints (rows,), the column of each row's first entry.
      entries: (rows, width), from there on.
      columns: how many there are.
    """

    starts: np.ndarray
    entries: np.ndarray
    columns: int

    @classmethod
    def of(cls, rows: Sequence[Mapping[int, float]], columns: int) -> Band:
        """From each row's entries by their columns."""
        width = max((max(row) - min(row) + 1 for row in rows if row), default=1)
        starts, entries = np.zeros(len(rows), int), np.zeros((len(rows), width))
        for i, row in enumerate(rows):
            # That of a row without entries is as good as any: near the one before.
            first = min(row) if row else starts[max(i - 1, 0)]
            starts[i] = min(first, columns - width)
            for column, entry in row.items():
                entries[i, column - starts[i]] = entry
        return cls(starts, entries, columns)

    @property
    def width(self) -> int:
        return int(self.entries.shape[1])

    def transposed(self) -> Band:
        rows: list[dict[int, float]] = [{} for _ in range(self.columns)]
        for i, (start, row) in enumerate(zip(self.starts, self.entries, strict=True)):
            for column in np.flatnonzero(row):
                rows[start + column][i] = row[column]
        return Band.of(rows, len(self.starts))

    def dense(self) -> np.ndarray:
        """(rows, columns)."""
        matrix = np.zeros((len(self.starts), self.columns))
        for i, start in enumerate(self.starts):
            matrix[i, start : start + self.width] = self.entries[i]
        return matrix


def along_axes(
    x: jax.Array,
    bands: Mapping[int, Band],
    default: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """``x`` with each of the axes of ``bands`` times a matrix, one after the other.

    Args:
      x: an array of float32 or float64, of known sizes along these axes.
      bands: (new size, old size) of each axis.
      default: the same on other platforms; by default the products with the whole matrices.

    Returns:
      An array like ``x`` but for the sizes of these axes.

    >>> import jax.numpy as jnp
    >>> means = Band.of([{0: 0.5, 1: 0.5}, {1: 0.5, 2: 0.5}], 3)
    >>> along_axes(jnp.array([1.0, 3.0, 9.0]), {0: means}).tolist()
    [2.0, 6.0]
    """
    default = default or functools.partial(_products, bands=bands)
    # Of sharded axes JAX finds the sharding of a product most reliably.
    if is_sharded(x) or not bands:
        return default(x)
    back = {axis: band.transposed() for axis, band in reversed([*bands.items()])}
    narrow = linear_op(
        functools.partial(_narrow_products, bands=bands),
        functools.partial(_narrow_products, bands=back),
    )
    return on_cpu(narrow, lambda _, out, tangents: narrow(tangents[0]), default)(x)


def by_matrix(x: jax.Array, axis: int, matrix: np.ndarray) -> jax.Array:
    """``x`` with an axis times ``matrix`` (new size, old size)."""
    y = lax.dot_general(
        x,
        jnp.asarray(matrix, x.dtype),
        (((axis,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(y, -1, axis)


def _products(x: jax.Array, bands: Mapping[int, Band]) -> jax.Array:
    for axis, band in bands.items():
        x = by_matrix(x, axis, band.dense())
    return x


def _narrow_products(x: jax.Array, bands: Mapping[int, Band]) -> jax.Array:
    for axis, band in bands.items():
        if _is_narrow(band, x.shape[axis + 1 :]):
            # Without the barrier, XLA computes what was before again for each entry of a row.
            x = _gathered(lax.optimization_barrier(x), axis, band)
        else:
            x = by_matrix(x, axis, band.dense())
    return x


def _is_narrow(band: Band, inner: Sequence[int]) -> bool:
    """Whether to gather, for an axis with axes of the sizes ``inner`` after it.

    An output costs a product in proportion to the size of the axis, beside moving it, and a gather
    in proportion to the width: half as much where there are numbers side by side to be gathered.
    """
    vectors = is_symbolic(*inner) or np.prod(inner, dtype=int) >= 16
    return band.width * (10 if vectors else 20) <= 60 + band.columns


def _gathered(x: jax.Array, axis: int, band: Band) -> jax.Array:
    shape = [1] * x.ndim
    shape[axis] = len(band.starts)
    before = (slice(None),) * axis
    total = None
    for offset, column in enumerate(band.entries.T):
        places = jnp.asarray(band.starts + offset, jnp.int32)
        term = x.at[(*before, places)].get(mode="promise_in_bounds")
        if (column != 1).any():
            term = term * jnp.asarray(column.reshape(shape), x.dtype)
        total = term if total is None else total + term
    assert total is not None
    return total
