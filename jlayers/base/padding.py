"""From rows of different lengths to one array, and the mask of what is no padding in it."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import LayerError


def mask_of_lengths(values: jax.Array, lengths: Any) -> jax.Array:
    """Bools (batch, time) for rows of ``values`` whose first ``lengths`` steps are valid.

    Raises:
      LayerError: for other shapes and dtypes, and for lengths outside that are known.
    """
    lengths = jnp.asarray(lengths)
    if values.ndim < 2 or lengths.shape != values.shape[:1]:
        raise LayerError(
            "lengths are one for each row",
            expected=f"int[{values.shape[0] if values.ndim else 'batch'}]",
            got=text(lengths),
        )
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise LayerError("lengths are integers", got=text(lengths))
    steps = values.shape[1]
    if not isinstance(lengths, jax.core.Tracer) and lengths.size:
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > steps:
            raise LayerError(
                "a length is outside the sequence",
                expected=f"0 to {steps}",
                got=f"{low if low < 0 else high}",
            )
    shape = (lengths.shape[0], steps)
    places = jnp.broadcast_to(jnp.arange(steps, dtype=lengths.dtype), shape)
    return places < jnp.broadcast_to(lengths[:, None], shape)


def padded(rows: Iterable[Any], length: int | None) -> tuple[jax.Array, jax.Array]:
    """Rows (time, ...) in one array, with zeros after each, and their lengths.

    Raises:
      LayerError: for no rows, rows that do not fit together, and rows longer than ``length``.
    """
    arrays = [np.asarray(row) for row in rows]
    if not arrays or any(row.ndim < 1 for row in arrays):
        raise LayerError("takes rows of shape (time, ...)", got=f"{len(arrays)} rows")
    if len({(row.shape[1:], row.dtype) for row in arrays}) > 1:
        raise LayerError(
            "rows that differ beyond their lengths",
            got=", ".join(sorted({text(row) for row in arrays})[:4]),
        )
    longest = max(len(row) for row in arrays)
    length = longest if length is None else operator.index(length)
    if longest > length:
        raise LayerError(f"a row of {longest} steps does not fit into {length}")
    values = np.zeros((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    for i, row in enumerate(arrays):
        values[i, : len(row)] = row
    return jnp.asarray(values), jnp.asarray([len(row) for row in arrays])


def text(value: Any) -> str:
    """Dtype and shape, as errors show them."""
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
