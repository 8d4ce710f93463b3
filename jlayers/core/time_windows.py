"""Windows over time: which outputs of a windowed operation are valid, for a mask of its steps.

A row of n valid steps has as many valid outputs as an input of n steps would have outputs. Holes in
a mask are steps that read as zeros, or as nothing at all for a pool.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class TimeWindow(NamedTuple):
    """The window of a convolution or pool along time; output t begins at ``stride * t - low``.

    Attributes:
      extent: steps from its first tap to its last, both counted.
      stride: steps from one window to the next.
      low, high: padding before and after all steps.
      full: whether the padding after is for windows that do not fit, as in ``"SAME"``: then every
        ``stride`` steps begun make an output.
    """

    extent: int
    stride: int
    low: int
    high: int
    full: bool = False

    @property
    def causal(self) -> bool:
        """Whether output t sees the steps up to ``stride * t`` and none after."""
        return self.low == self.extent - 1 and self.high == 0

    @property
    def context(self) -> int:
        """How many steps before a block its outputs see, if causal."""
        return self.extent - 1

    def outputs(self, mask: jax.Array, count: int) -> jax.Array:
        """Which of ``count`` outputs are valid: those whose window ends in a valid step.

        The end is that of the window without its share of the padding; all steps between
        ``stride * t`` and there have to be valid.

        Args:
          mask: bools (batch, time).

        Returns:
          Bools (batch, count).
        """
        reach = 0 if self.full else self.extent - 1 - self.low - self.high
        first = np.arange(count) * self.stride
        if reach < 0:  # more padding than the window needs: outputs beyond the steps
            steps = np.maximum(first + reach, 0)[:, None]
        else:
            steps = first[:, None] + np.arange(reach + 1)
        return _all(mask, steps)


class SpreadWindow(NamedTuple):
    """A transposed convolution along time: input t reaches ``stride * t`` and what follows.

    Attributes:
      extent: of the dilated kernel.
      stride: outputs for one input.
      low, high: padding of the spread-out input.
    """

    extent: int
    stride: int
    low: int
    high: int

    @property
    def causal(self) -> bool:
        """Its outputs are not streamed."""
        return False

    def outputs(self, mask: jax.Array, count: int) -> jax.Array:
        """Which of ``count`` outputs are valid: those that a valid input reaches.

        Args:
          mask: bools (batch, time).

        Returns:
          Bools (batch, count).
        """
        tail = self.low + self.high - self.extent + 1
        places = np.arange(count)
        first = -((tail - places) // self.stride)  # ceil((place - tail) / stride)
        last = np.maximum(places // self.stride, first)
        width = int((last - first).max(initial=0)) + 1
        steps = np.minimum(first[:, None] + np.arange(width), last[:, None])
        inside = (steps >= 0) & (steps < mask.shape[1])
        seen = jnp.take(mask, np.clip(steps, 0, max(mask.shape[1] - 1, 0)), axis=1)
        return jnp.any(seen & jnp.broadcast_to(inside, seen.shape), -1)


def _all(mask: jax.Array, steps: np.ndarray) -> jax.Array:
    """Whether all ``steps`` (outputs, k) of each output are valid."""
    if steps.shape[1] == 1 and steps.size and (np.diff(steps[:, 0]) == 1).all():
        start = int(steps[0, 0])
        return mask[:, start : start + len(steps)]
    return jnp.all(jnp.take(mask, steps, axis=1), -1)
