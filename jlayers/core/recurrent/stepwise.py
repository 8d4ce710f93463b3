"""Any cell as a plain scan over its steps: masks, resets, zoneout and recurrent dropout.

SimpleRNN, LSTM and GRU without these options run on ``scan.recurrence`` instead, which is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from ..dispatch import AlgorithmChoice, check_method, record_choice
from ..dtypes import sharded_as
from .chunking import METHODS, Carry

# What a cell computes from the input alone: one array, or a tuple of them.
Projected = TypeVar("Projected")
Gates = dict[str, jax.Array]


class StepCell(NamedTuple, Generic[Projected]):
    """What a step computes.

    Attributes:
      project: ``project(x)``, the part that depends on the input alone, computed for all steps at
        once, from (time, batch, ...).
      step: ``step(projected, h, carry) -> carry`` for one step. ``h`` is the first entry of the
        carry as the recurrent products read it: with recurrent dropout.
      gates: ``step`` that also gives what it computes on the way, by name; None where it has none.
    """

    project: Callable[[jax.Array], Projected]
    step: Callable[[Projected, jax.Array, Carry], Carry]
    gates: Callable[[Projected, jax.Array, Carry], tuple[Carry, Gates]] | None = None


class ScanOptions(NamedTuple):
    """What happens to the carry between the steps; by default nothing, from the first to the last.

    Attributes:
      reverse: from the last step to the first; outputs stay in the order of the input.
      mask: bools (batch, time): a step where it is False is skipped.
      resets: bools (batch, time): before a step where it is True the carry is ``initial`` again.
      initial: the carry that a sequence starts from; needed with ``resets`` only.
      recurrent_dropout_mask: the recurrent products read the first entry of the carry times this.
      zoneout_mask: for each entry of the carry bools (time, batch, ...): where a step is True the
        old value is kept.
      zoneout_rate: outside training, the share of the old value in the new one.
    """

    reverse: bool = False
    mask: jax.Array | None = None
    resets: jax.Array | None = None
    initial: Carry = ()
    recurrent_dropout_mask: jax.Array | None = None
    zoneout_mask: Carry | None = None
    zoneout_rate: float | None = None

    @property
    def zoneout(self) -> bool:
        return self.zoneout_mask is not None or self.zoneout_rate is not None

    @property
    def fusible(self) -> bool:
        """Whether ``scan.recurrence``, which knows a direction and a mask only, can run it."""
        return self.resets is None and self.recurrent_dropout_mask is None and not self.zoneout


def stepwise(
    cell: StepCell[Projected],
    x: jax.Array,
    carry: Carry,
    options: ScanOptions,
    *,
    method: str | None = None,
    name: str = "stepwise",
    gates: bool = False,
) -> tuple[jax.Array, Carry, Gates]:
    """Runs a cell over (batch, time, ...).

    Args:
      cell: what a step computes.
      x: (batch, time, ...).
      carry: before the first step, arrays (batch, ...); the first is the output of a step.
      options: what happens between the steps.
      method: whether the gradient stores all that a step computes, ``"store"`` (the default), or
        only the carry, ``"recompute"``.
      name: of the operation, for errors and ``explain``.
      gates: whether the gates of all steps are wanted.

    Returns:
      (outputs (batch, time, ...), the carry after the last step that was not skipped, the gates by
      name, (batch, time, ...), of a cell that has some).

    Raises:
      ValueError: for an unknown method.
    """
    check_method(method, METHODS, name)
    choice = AlgorithmChoice(
        "store", "a scan over the steps, with the gradient that JAX makes of it"
    )
    record_choice(name, choice, choice, method)
    # Time leads in a scan.
    mask, resets = (
        None if bools is None else jnp.swapaxes(bools, 0, 1)
        for bools in (options.mask, options.resets)
    )

    def take(
        carry: Carry, at: tuple[Projected, jax.Array | None, jax.Array | None, Carry | None]
    ) -> tuple[Carry, tuple[jax.Array, Gates]]:
        projected, valid, reset, keep_old = at
        before = carry if reset is None else _select(reset, options.initial, carry)
        dropout = options.recurrent_dropout_mask
        h = before[0] if dropout is None else before[0] * dropout
        told: Gates = {}
        if gates and cell.gates is not None:
            after, told = cell.gates(projected, h, before)
        else:
            after = cell.step(projected, h, before)
        if keep_old is not None:
            after = tuple(
                jnp.where(sharded_as(keep, old), old, new)
                for keep, old, new in zip(keep_old, before, after, strict=True)
            )
        elif options.zoneout_rate is not None:
            rate = options.zoneout_rate
            after = tuple(
                rate * old + (1 - rate) * new for old, new in zip(before, after, strict=True)
            )
        if valid is not None:
            # From ``carry``, not ``before``: a padded step does not reset either.
            after = _select(valid, after, carry)
        return after, (after[0], told)

    if method == "recompute":
        # In a scan XLA cannot merge the two computations, so that it need not be prevented.
        take = jax.checkpoint(take, prevent_cse=False)
    at = (cell.project(jnp.swapaxes(x, 0, 1)), mask, resets, options.zoneout_mask)
    carry, steps = lax.scan(take, carry, at, reverse=options.reverse)
    outputs, told = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), steps)
    return outputs, carry, told


def _select(rows: jax.Array, chosen: Carry, others: Carry) -> Carry:
    """``chosen`` for the rows, (batch,), that are True, ``others`` for the rest."""
    return tuple(
        jnp.where(expand(rows, new.shape), new, old)
        for new, old in zip(chosen, others, strict=True)
    )


def expand(bools: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``bools``, of the first axes of ``shape``, repeated over the others."""
    return jnp.broadcast_to(bools.reshape(bools.shape + (1,) * (len(shape) - bools.ndim)), shape)
