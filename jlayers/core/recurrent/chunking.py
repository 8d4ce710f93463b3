"""How a recurrence is scheduled: its steps in chunks, forwards or backwards, stored or recomputed.

How to read this file: ``Plan`` slices (batch, time, ...) arrays into chunks of steps,
``over_chunks`` loops over them, and ``choose_recurrence`` is the static rule for what the gradient
stores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from ..dispatch import AlgorithmChoice
from ..dtypes import is_symbolic

Arrays = tuple[jax.Array, ...]
Carry = Arrays
# A static or traced position in time.
Index = int | jax.Array
S = TypeVar("S")
V = TypeVar("V")
Y = TypeVar("Y")
METHODS = ("store", "recompute")

# Size of a chunk's gates: about the second-level cache of a core.
_CHUNK_BYTES = 1 << 20
# A product of fewer steps is slower than the cache makes up for.
_SMALLEST_CHUNK = 8
# From how many multiplications per element of the gates storing is cheaper than recomputing.
# Measured on two cores (docs/notes/0009); half or twice that changes little.
_STORE_FROM = 256


class Cell(NamedTuple):
    """What a step computes after its two products, and its gradient.

    All of it is elementwise in the leading axes, so that one call serves a step, (batch, ...), and
    a chunk of them, (steps, batch, ...).

    Attributes:
      summed: whether one array of the size of the gates is all that the gradient may store.
      prepare: ``prepare(x W + b)``, for a chunk of steps at once.
      activate: ``activate(prepared, h U, recurrent_bias)``, which the gradient may store.
      step: ``step(activated, carry) -> carry``.
      coefficients: ``coefficients(activated, before, after)``, with the carries before and after
        the steps of a chunk: what ``backward`` needs, as far as no later step decides it.
      backward: ``backward(coefficients, dcarry) -> (signal, drecurrent, dbefore)`` of one step,
        linear in the cotangent of the carry after it. ``drecurrent`` is the cotangent of ``h U``,
        and ``dbefore`` that of the carry before, without what comes through ``h U``.
      gradients: ``gradients(coefficients, signal) -> (dprojected, drecurrent)``, the cotangents of
        both products of a chunk, from what ``backward`` gave for each step.
    """

    summed: bool
    prepare: Callable[[jax.Array], Any]
    activate: Callable[[Any, jax.Array, jax.Array | None], Any]
    step: Callable[[Any, Carry], Carry]
    coefficients: Callable[[Any, Carry, Carry], Arrays]
    backward: Callable[[Arrays, Carry], tuple[Arrays, jax.Array, Carry]]
    gradients: Callable[[Arrays, Arrays], tuple[jax.Array, jax.Array]]


def choose_recurrence(
    x: Sequence[int], hidden: int, width: int, summed: bool, dtype: DTypeLike
) -> AlgorithmChoice:
    """What the gradient does for an ``x`` of this shape and ``width`` gates, with the reason."""
    size = _chunk(x[1], x[0] * width * np.dtype(dtype).itemsize)
    if is_symbolic(*x[:2]):
        return AlgorithmChoice("store", "sizes that are not known yet: all steps at once")
    if size >= x[1]:
        return AlgorithmChoice("store", "the gates of all steps fit the cache")
    chunks = f"on CPU {size} steps at a time, so that their gates stay in cache"
    # An element of the gates costs in + hidden multiplications to recompute.
    # A cell that is not summed has to store two terms.
    if x[2] + hidden >= _STORE_FROM * (1 if summed else 2):
        return AlgorithmChoice(
            "store", f"gates of {x[2]} + {hidden} products cost less stored; {chunks}"
        )
    return AlgorithmChoice(
        "recompute", f"gates of {x[2]} + {hidden} products cost less remade; {chunks}"
    )


def _chunk(steps: int, step_bytes: int) -> int:
    """How many steps make a chunk: a divisor of all of them where one is near."""
    # Of a size that is not known yet, all at once is right for every number.
    if is_symbolic(steps, step_bytes):
        return steps
    size = max(_SMALLEST_CHUNK, _CHUNK_BYTES // max(step_bytes, 1))
    if size >= steps:
        return steps
    # With a divisor no steps are left over, which would need a loop of their own.
    divisors = [k for k in range(max(size // 2, _SMALLEST_CHUNK // 2), 2 * size) if steps % k == 0]
    return min(divisors, key=lambda k: abs(k - size), default=size)


class Plan(NamedTuple):
    """How a recurrence visits its steps.

    Attributes:
      cell: what a step computes.
      reverse: from the last step to the first.
      stores: whether the gates are stored for the gradient.
      chunked: whether it runs a chunk of steps at a time, or all at once.
    """

    cell: Cell
    reverse: bool
    stores: bool
    chunked: bool

    def chunks(self, x: jax.Array, width: int) -> tuple[int, int, int]:
        """How many chunks there are, of how many steps, and how many steps are left over."""
        steps = x.shape[1]
        size = steps
        if self.chunked:
            size = _chunk(steps, x.shape[0] * width * x.dtype.itemsize)
        if is_symbolic(steps):
            return 1, steps, 0
        return steps // size, size, steps % size

    def place(self, steps: int, start: Index, size: int) -> Index:
        """The first time index of the ``size`` steps that run after ``start`` others."""
        return steps - start - size if self.reverse else start

    def ordered(self, values: jax.Array, axis: int) -> jax.Array:
        return lax.rev(values, (axis,)) if self.reverse else values

    def take(self, values: jax.Array, start: Index, size: int) -> jax.Array:
        """(size, batch, ...) of (batch, time, ...), in the order in which the steps run."""
        place = self.place(values.shape[1], start, size)
        part = lax.dynamic_slice_in_dim(values, place, size, axis=1)
        return self.ordered(swap_leading(part), 0)

    def put(self, all_values: jax.Array, values: jax.Array, start: Index) -> jax.Array:
        """Writes back what ``take`` reads."""
        place = self.place(all_values.shape[1], start, values.shape[0])
        part = swap_leading(self.ordered(values, 0))
        return lax.dynamic_update_slice_in_dim(all_values, part, place, axis=1)


def swap_leading(values: jax.Array) -> jax.Array:
    """(time, batch, ...) of (batch, time, ...), and the other way round."""
    return lax.transpose(values, (1, 0, *range(2, values.ndim)))


def over_chunks(
    chunk: Callable[[S, Index, int, V], tuple[S, Y]],
    state: S,
    values: V,
    chunks: tuple[int, int, int],
    reverse: bool = False,
) -> tuple[S, Y]:
    """``state, y = chunk(state, start, size, values)`` for each chunk of (time, ...) values."""
    count, size, left = chunks
    main, rest = values, values
    if left:
        main = jax.tree.map(lambda v: lax.slice_in_dim(v, 0, count * size), values)
        rest = jax.tree.map(lambda v: lax.slice_in_dim(v, count * size, None), values)

    def run_main(state: S) -> tuple[S, Y]:
        if count == 1:
            # No loop around a single chunk.
            return chunk(state, 0, size, main)
        starts = lax.mul(lax.iota(np.int32, count), np.int32(size))
        split = jax.tree.map(lambda v: lax.reshape(v, (count, size, *v.shape[1:])), main)
        state, y = lax.scan(
            lambda state, at: chunk(state, at[0], size, at[1]),
            state,
            (starts, split),
            reverse=reverse,
        )
        return state, jax.tree.map(lambda m: lax.reshape(m, (count * size, *m.shape[2:])), y)

    if not left:
        return run_main(state)
    if reverse:
        state, last = chunk(state, count * size, left, rest)
        state, y = run_main(state)
    else:
        state, y = run_main(state)
        state, last = chunk(state, count * size, left, rest)
    return state, jax.tree.map(lambda *parts: lax.concatenate(parts, 0), y, last)
