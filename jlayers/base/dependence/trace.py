"""Traces of a function at chosen numbers of rows and steps.

How to read this file: ``Inputs`` knows which arrays have rows and steps, ``Trace`` is the program
for one pair of numbers. A function that cannot be traced somewhere, as one that wants an even
number of steps, is traced elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

# Rows and steps of both traces. All differ, and no length is 1, which NumPy's broadcasting makes
# special. The later ones are for functions that want an even number, a power of 2, or few or many.
OWN_SIZES: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = (
    ((3, 8), (5, 15)),
    ((3, 7), (5, 11)),
    ((3, 24), (5, 36)),
    ((3, 8), (5, 16)),
    ((3, 5), (5, 7)),
    ((3, 64), (5, 128)),
    ((4, 24), (8, 36)),
    ((3, 4), (5, 6)),
    ((3, 2), (5, 3)),
)


class Trace(NamedTuple):
    """The program of a function for a number of rows and steps.

    Attributes:
      program: its jaxpr.
      structure: that of its results.
      rows, steps: of its inputs.
    """

    program: Any
    structure: Any
    rows: int
    steps: int


class Inputs:
    """Arguments of a function, of which some arrays lead with (batch, time).

    Args:
      arguments: pytrees of arrays or ``jax.ShapeDtypeStruct``.
      timed: which of them lead with (batch, time): a prefix tree of bools for the tuple of
        arguments, or a function of an array. ``"rows"`` is for one that leads with (batch,) alone.
      lead: how many axes that is: 2, or 1 where steps are rows of their own, without a batch.

    Raises:
      ValueError: no array is timed, one that is has no two dimensions, or they disagree.
    """

    def __init__(self, arguments: Sequence[Any], timed: Any = True, lead: int = 2):
        self.lead = lead
        leaves, self.structure = jax.tree.flatten(tuple(arguments))
        self.leaves = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        if callable(timed):
            self.timed = [timed(leaf) for leaf in leaves]
        else:
            spread = jax.tree.map(
                lambda flag, part: jax.tree.map(lambda _: flag, part),
                timed if isinstance(timed, tuple) else (timed,) * len(arguments),
                tuple(arguments),
            )
            self.timed = jax.tree.leaves(spread)
        leading = {
            leaf.shape[:lead]
            for leaf, is_timed in zip(self.leaves, self.timed, strict=True)
            if is_timed is True
        }
        if len(leading) != 1 or len(next(iter(leading))) != lead:
            shapes = sorted(leading)
            raise ValueError(f"timed arrays must lead with one (batch, time), got {shapes}")
        self.rows, self.steps = (1, *leading.pop())[-2:]

    def at(self, rows: int, steps: int) -> tuple[Any, ...]:
        """The arguments for another number of rows and steps."""
        leading = (rows, steps)[-self.lead :]
        leaves = [
            leaf
            if not is_timed
            else jax.ShapeDtypeStruct(
                (rows, *leaf.shape[1:])
                if is_timed == "rows"
                else (*leading, *leaf.shape[self.lead :]),
                leaf.dtype,
            )
            for leaf, is_timed in zip(self.leaves, self.timed, strict=True)
        ]
        arguments: tuple[Any, ...] = jax.tree.unflatten(self.structure, leaves)
        return arguments

    def trace(self, function: Callable[..., Any], rows: int, steps: int) -> Trace:
        """The program for a number of rows and steps. Raises what the function raises."""
        program, results = jax.make_jaxpr(function, return_shape=True)(*self.at(rows, steps))
        return Trace(program, jax.tree.structure(results), rows, steps)

    def first_trace(
        self, function: Callable[..., Any], sizes: Iterable[tuple[int, int]]
    ) -> Trace | None:
        """The program for the first of the (rows, steps) at which there is one."""
        for rows, steps in sizes:
            try:
                return self.trace(function, rows, steps)
            except Exception:
                continue
        return None

    def own_traces(self, function: Callable[..., Any]) -> tuple[Trace, Trace] | None:
        """Two programs at sizes of the analysis, or None if there are no such two."""
        for first, second in OWN_SIZES:
            if (one := self.first_trace(function, [first])) and (
                two := self.first_trace(function, [second])
            ):
                return one, two
        return None
