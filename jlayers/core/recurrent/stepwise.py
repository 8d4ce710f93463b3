"""A recurrence as a plain scan over its steps, for any cell: masks, resets, zoneout, dropout.

What SimpleRNN, LSTM and GRU do without options runs on ``recurrence`` instead, which is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..dispatch import Choice, check_method, record
from .chunking import METHODS, Carry


class StepCell(NamedTuple):
    """What a step does.

    Attributes:
      project: ``project(x)``, what of the step needs the input alone; taken for all steps at once,
        of (time, batch, ...).
      step: ``step(projected, seen, carry) -> carry`` for one step. ``seen`` is the first entry of
        the carry as its products see it: with dropout.
    """

    project: Callable[[jax.Array], Any]
    step: Callable[[Any, jax.Array, Carry], Carry]


class Course(NamedTuple):
    """Which steps there are, and what happens to the carry between them.

    Attributes:
      reverse: from the last step to the first; outputs stay in the order of the input.
      mask: bools (batch, time): a step where it is False leaves the carry as it is.
      resets: bools (batch, time): before a step where it is True the carry is ``first`` again.
      first: the carry that a sequence starts from.
      kept: recurrent dropout: by what the products see the first entry of the carry multiplied.
      held: zoneout: which values of the carry a step leaves as they are, for each entry bools
        (time, batch, ...); or one number, the share of the old values in the new.
    """

    reverse: bool
    mask: jax.Array | None
    resets: jax.Array | None
    first: Carry
    kept: jax.Array | None
    held: Carry | float | None

    @property
    def plain(self) -> bool:
        """Whether there are steps and a mask alone."""
        return self.resets is None and self.kept is None and self.held is None


def stepwise(
    cell: StepCell,
    x: jax.Array,
    carry: Carry,
    course: Course,
    *,
    method: str | None = None,
    name: str = "stepwise",
) -> tuple[jax.Array, Carry]:
    """Runs a cell over (batch, time, ...).

    Args:
      carry: before the first step, arrays (batch, ...); the first is the output of a step.
      method: whether the gradient keeps all that a step computes, ``"store"``, or the carry alone,
        ``"recompute"``. The first by default.
      name: of the operation, for errors and ``explain``.

    Returns:
      (outputs (batch, time, ...), the carry after the last step taken).

    Raises:
      ValueError: for an unknown method.
    """
    check_method(method, METHODS, name)
    choice = Choice("store", "with options, or resets: JAX's own gradient of a scan")
    record(name, choice, choice, method)
    mask, resets = (
        None if bools is None else jnp.swapaxes(bools, 0, 1)
        for bools in (course.mask, course.resets)
    )
    masks = course.held if isinstance(course.held, tuple) else None

    def take(carry: Carry, at: Any) -> tuple[Carry, jax.Array]:
        projected, valid, reset, held = at
        before = carry if reset is None else _chosen(reset, course.first, carry)
        seen = before[0] if course.kept is None else before[0] * course.kept
        after = cell.step(projected, seen, before)
        if held is not None:
            after = tuple(map(jnp.where, held, before, after))
        elif isinstance(course.held, float):
            share = course.held
            after = tuple(
                share * old + (1 - share) * new for old, new in zip(before, after, strict=True)
            )
        if valid is not None:
            after = _chosen(valid, after, carry)
        return after, after[0]

    if method == "recompute":
        take = jax.checkpoint(take, prevent_cse=False)
    at = (cell.project(jnp.swapaxes(x, 0, 1)), mask, resets, masks)
    carry, outputs = lax.scan(take, carry, at, reverse=course.reverse)
    return jnp.swapaxes(outputs, 0, 1), carry


def _chosen(rows: jax.Array, these: Carry, others: Carry) -> Carry:
    """``these`` for the rows, (batch,), that are True, ``others`` for the rest."""
    return tuple(
        jnp.where(spread(rows, this.shape), this, other)
        for this, other in zip(these, others, strict=True)
    )


def spread(bools: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``bools``, of the first axes of ``shape``, repeated over the others."""
    return jnp.broadcast_to(bools.reshape(bools.shape + (1,) * (len(shape) - bools.ndim)), shape)
