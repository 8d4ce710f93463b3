"""The last steps of sequences in a ring, to which a step is written in place.

A long context that is shifted at each step is read and written whole. In a ring a step replaces the
oldest, and the steps are put in order where they are read.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class StepRing(NamedTuple):
    """The last S steps of each row.

    Attributes:
      steps: (batch, S, ...).
      oldest: the slot of the oldest step, int32 (batch,). Each row has its own, so that the rows of
        streams may be put together.

    >>> import jax.numpy as jnp
    >>> ring = StepRing(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([0], jnp.int32))
    >>> ring = ring.append(jnp.array([[4.0]]))
    >>> ring.steps.tolist(), ring.in_order().tolist()
    ([[4.0, 2.0, 3.0]], [[2.0, 3.0, 4.0]])
    """

    steps: jax.Array
    oldest: jax.Array

    def in_order(self) -> jax.Array:
        """The steps, the oldest first: (batch, S, ...)."""
        rows, slots = self._rows(), self.steps.shape[1]
        shape = (self.steps.shape[0], slots)
        offsets = lax.broadcasted_iota(jnp.int32, shape, 1)
        order = (jnp.broadcast_to(self.oldest[:, None], shape) + offsets) % slots
        return self.steps.at[jnp.broadcast_to(rows[:, None], shape), order].get(
            mode="promise_in_bounds", unique_indices=True
        )

    def append(self, block: jax.Array) -> StepRing:
        """The last S steps after those of a block (batch, T, ...).

        One step replaces the oldest in place, where the ring is donated or carried by a loop.
        """
        slots = self.steps.shape[1]
        if block.shape[1] != 1:
            steps = jnp.concatenate([self.in_order(), block], 1)[:, -slots:]
            return StepRing(steps, jnp.zeros_like(self.oldest))
        rows, slot, new = self._rows(), self.oldest, block[:, 0]
        if self.steps.shape[0] == 1:
            # Of one write XLA makes another operation, which it fuses with the reading, and copies.
            # A second one is dropped.
            rows, slot = jnp.concatenate([rows, rows]), jnp.concatenate([slot, slot + slots])
            new = jnp.concatenate([new, new])
        steps = self.steps.at[rows, slot].set(new, mode="drop", unique_indices=True)
        return StepRing(steps, (self.oldest + 1) % slots)

    def _rows(self) -> jax.Array:
        return lax.broadcasted_iota(jnp.int32, self.oldest.shape, 0)
