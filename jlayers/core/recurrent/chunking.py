"""How a recurrence goes over its steps: in chunks of them, forwards or backwards, and the rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..dispatch import Choice

Carry = tuple[jax.Array, ...]
METHODS = ("store", "recompute")

# What the chunk's gates may take: about the second-level cache of a core.
_CHUNK_BYTES = 1 << 20
_SMALLEST_CHUNK = 8
# Measured on two cores; half or twice that changes little.
_STORE_FROM = 256


class Cell(NamedTuple):
    """What a step does beside its two products.

    Attributes:
      step: ``step(gates, carry) -> carry``, elementwise in the batch axis. ``gates`` is one array,
        ``x W + b + h U``, for a summed cell, and otherwise the two terms.
      summed: whether the cell needs the sum alone.
    """

    step: Callable[[Any, Carry], Carry]
    summed: bool


def choose_recurrence(
    x: Sequence[int], hidden: int, width: int, summed: bool, dtype: Any
) -> Choice:
    """What the gradient does of an ``x`` of that shape and ``width`` gates, with the reason."""
    size = _chunk(x[1], x[0] * width * jnp.dtype(dtype).itemsize)
    if size >= x[1]:
        return Choice("store", "the gates of all steps fit the cache")
    chunks = f"on CPU {size} steps at a time, so that their gates stay in cache"
    # An element of the gates costs that many multiplications to make again.
    if x[2] + hidden >= _STORE_FROM * (1 if summed else 2):
        return Choice("store", f"gates of {x[2]} + {hidden} products cost less stored; {chunks}")
    return Choice("recompute", f"gates of {x[2]} + {hidden} products cost less remade; {chunks}")


def _chunk(steps: int, step_bytes: int) -> int:
    """How many steps make a chunk: if possible, a divisor of all of them."""
    size = max(_SMALLEST_CHUNK, _CHUNK_BYTES // max(step_bytes, 1))
    if size >= steps:
        return steps
    divisors = [k for k in range(max(size // 2, _SMALLEST_CHUNK // 2), 2 * size) if steps % k == 0]
    return min(divisors, key=lambda k: abs(k - size), default=size)


class Plan(NamedTuple):
    """How a recurrence goes over its steps.

    Attributes:
      cell: what a step does.
      reverse: whether it goes from the last step to the first.
      stores: whether the gates are kept for the gradient.
      chunked: whether it takes a chunk of steps at a time, or all.
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
        return steps // size, size, steps % size

    def place(self, steps: int, start: Any, size: int) -> Any:
        """Where in time the ``size`` steps lie that come after ``start`` others."""
        return steps - start - size if self.reverse else start

    def ordered(self, values: jax.Array, axis: int) -> jax.Array:
        return jnp.flip(values, axis) if self.reverse else values

    def take(self, values: jax.Array, start: Any, size: int) -> jax.Array:
        """(size, batch, ...) of (batch, time, ...), in the order in which they are run."""
        place = self.place(values.shape[1], start, size)
        part = lax.dynamic_slice_in_dim(values, place, size, axis=1)
        return self.ordered(jnp.swapaxes(part, 0, 1), 0)

    def put(self, all_values: jax.Array, values: jax.Array, start: Any) -> jax.Array:
        """``take``, the other way."""
        place = self.place(all_values.shape[1], start, values.shape[0])
        part = jnp.swapaxes(self.ordered(values, 0), 0, 1)
        return lax.dynamic_update_slice_in_dim(all_values, part, place, axis=1)

    def gates(self, projected: jax.Array, recurrent: jax.Array) -> Any:
        return projected + recurrent if self.cell.summed else (projected, recurrent)


def over_chunks(
    chunk: Callable[..., Any],
    state: Any,
    values: Any,
    chunks: tuple[int, int, int],
    reverse: bool = False,
) -> tuple[Any, Any]:
    """``state, made = chunk(state, start, size, values)`` for each chunk of (time, ...) values."""
    count, size, left = chunks
    main = jax.tree.map(lambda v: v[: count * size].reshape(count, size, *v.shape[1:]), values)
    rest = jax.tree.map(lambda v: v[count * size :], values)

    def run_main(state: Any) -> tuple[Any, Any]:
        if count == 1:
            return chunk(state, 0, size, jax.tree.map(lambda v: v[0], main))  # type: ignore[no-any-return]
        starts = jnp.arange(count) * size
        state, made = lax.scan(
            lambda state, at: chunk(state, at[0], size, at[1]),
            state,
            (starts, main),
            reverse=reverse,
        )
        return state, jax.tree.map(lambda m: m.reshape(count * size, *m.shape[2:]), made)

    if not left:
        return run_main(state)
    if reverse:
        state, last = chunk(state, count * size, left, rest)
        state, made = run_main(state)
    else:
        state, made = run_main(state)
        state, last = chunk(state, count * size, left, rest)
    return state, jax.tree.map(lambda *parts: jnp.concatenate(parts), made, last)
