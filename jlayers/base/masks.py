"""Masks of steps: from lengths and rows, joined, and beside arrays that have none.

``Sequence`` is made of these; none of them knows it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from .errors import LayerError
from .mixing import POSITIONS


def mask_of_lengths(values: jax.Array, lengths: jax.Array) -> jax.Array:
    """Bools (batch, time), True in the first ``lengths`` steps of each row of ``values``.

    Raises:
      LayerError: for other shapes and dtypes, and for known lengths outside 0 to time.
    """
    if values.ndim < 2 or lengths.shape != values.shape[:1]:
        raise LayerError(
            "lengths must be one integer for each row",
            expected=f"int[{values.shape[0] if values.ndim else 'batch'}]",
            got=text(lengths),
        )
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise LayerError("lengths must be integers", got=text(lengths))
    steps = values.shape[1]
    # Traced lengths have no values to check.
    if not isinstance(lengths, jax.core.Tracer) and lengths.size:
        # In NumPy: inside jit an operation of JAX on values that are known gives a tracer.
        known = np.asarray(lengths)
        low, high = int(known.min()), int(known.max())
        if low < 0 or high > steps:
            raise LayerError(
                "a length is outside the sequence",
                expected=f"0 to {steps}",
                got=f"{low if low < 0 else high}",
            )
    shape = (lengths.shape[0], steps)
    positions = jnp.broadcast_to(jnp.arange(steps, dtype=lengths.dtype), shape)
    return positions < jnp.broadcast_to(lengths[:, None], shape)


def padded(rows: Iterable[ArrayLike], length: int | None) -> tuple[jax.Array, jax.Array]:
    """Rows (time, ...) in one array, padded with zeros at the end, and their lengths.

    Raises:
      LayerError: for no rows, rows that do not fit together, and rows longer than ``length``.
    """
    arrays = [np.asarray(row) for row in rows]
    if not arrays or any(row.ndim < 1 for row in arrays):
        raise LayerError("rows must be of shape (time, ...)", got=f"{len(arrays)} rows")
    if len({(row.shape[1:], row.dtype) for row in arrays}) > 1:
        raise LayerError(
            "rows must have one dtype, and one shape but for their lengths",
            got=", ".join(sorted({text(row) for row in arrays})[:4]),
        )
    # NumPy: rows of new lengths would be new programs for JAX.
    longest = max(len(row) for row in arrays)
    length = longest if length is None else operator.index(length)
    if longest > length:
        raise LayerError(f"a row of {longest} steps does not fit into {length}")
    values = np.zeros((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    for i, row in enumerate(arrays):
        values[i, : len(row)] = row
    return to_jax_array(values), jnp.asarray([len(row) for row in arrays])


def joined_masks(a: jax.Array, b: jax.Array) -> jax.Array:
    """The steps that are valid in both.

    Raises:
      LayerError: for Sequences of different lengths.
    """
    # The common case; the compiled program needs no ``and``.
    if a is b:
        return a
    if a.shape != b.shape:
        raise LayerError(
            "cannot join Sequences of different lengths", got=f"{text(a)} and {text(b)}"
        )
    return a & b


class SharedStepsError(LayerError):
    """Arithmetic of a Sequence with an array of steps that all rows share."""


def check_rows(x: Any, others: tuple[Any, ...]) -> None:
    """Raises for an array of steps that are the same in every row: it is placed by their number.

    Args:
      x: a Sequence, or anything of its shape.
      others: arrays and numbers beside it.
    """
    for other in others:
        shape = jnp.shape(other) if not hasattr(other, "mask") else ()
        placed = (1,) * (x.ndim - len(shape)) + shape
        if len(placed) == x.ndim and placed[0] != x.shape[0] and placed[1] == x.shape[1] != 1:
            raise SharedStepsError(
                "an array with steps and without rows says where a step is, which padding in front "
                "of it changes",
                expected=f"[{x.shape[0]}, {x.shape[1]}, ...], or one step",
                got=text(jnp.asarray(other)),
                hint=POSITIONS,
            )


def text(value: Any) -> str:
    """Dtype and shape, as errors show them."""
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"


def to_jax_array(values: ArrayLike) -> jax.Array:
    """``jnp.asarray`` that refuses integers which JAX would cut to their lower 32 bits.

    Raises:
      LayerError: naming the number.
    """
    array = jnp.asarray(values)
    if not isinstance(values, np.ndarray) or array.dtype == values.dtype or not values.size:
        return array
    if jnp.issubdtype(array.dtype, jnp.integer):
        info = jnp.iinfo(array.dtype)  # type: ignore[no-untyped-call]
        for number in (int(values.max()), int(values.min())):
            if not info.min <= number <= info.max:
                raise LayerError(
                    f"{number} is out of range: without x64 JAX holds integers in {info.bits} bits",
                    expected=f"{array.dtype}, from {info.min} to {info.max}",
                    got=text(values),
                )
    return array


def mask_hint(
    mask: jax.Array | jax.ShapeDtypeStruct, values: jax.Array | jax.ShapeDtypeStruct
) -> str | None:
    """What to write for a mask that does not fit its values."""
    if len(mask.shape) == 1:
        return "Sequence.from_lengths(values, lengths)"
    # Masks of other libraries are ints or floats.
    return "mask.astype(bool)" if tuple(mask.shape) == tuple(values.shape[:2]) else None
