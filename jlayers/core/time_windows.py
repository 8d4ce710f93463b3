"""Windows over time: which outputs of a windowed operation are valid, for a mask of its steps.

A row of n valid steps has as many valid outputs as an input of n steps would have outputs. Holes in
a mask are steps that read as zeros, or as nothing at all for a pool.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .dtypes import is_symbolic


class TimeWindow(NamedTuple):
    """The window of a convolution or pool along time; output t starts at ``stride * t - low``.

    Attributes:
      extent: how many steps it covers, those between the elements of a dilated kernel included.
      stride: steps from one window to the next.
      low, high: padding before and after all steps.
      same: whether the padding is ``"SAME"``, for which every ``stride`` steps, or a part of them
        at the end, make an output.

    >>> import jax.numpy as jnp
    >>> mask = jnp.array([[True, True, True, False]])
    >>> TimeWindow(extent=2, stride=1, low=0, high=0).outputs(mask, 3).tolist()
    [[True, True, False]]
    """

    extent: int
    stride: int
    low: int
    high: int
    same: bool = False

    @property
    def causal(self) -> bool:
        """Whether output t depends on the steps up to ``stride * t`` and none after."""
        return self.low == self.extent - 1 and self.high == 0

    @property
    def context(self) -> int:
        """How many steps before a block its outputs depend on, if causal."""
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
        # The part of the window that is not accounted for by padding.
        span = 0 if self.same else self.extent - 1 - self.low - self.high
        xp = _arrays_of(count)
        first = xp.arange(count) * self.stride
        if span < 0:  # more padding than the window needs: outputs beyond the steps
            steps = xp.maximum(first + span, 0)[:, None]
        else:
            steps = first[:, None] + np.arange(span + 1)[None]
        return _all_valid(mask, steps)


class TransposedTimeWindow(NamedTuple):
    """A transposed convolution along time: input t contributes to ``stride * t`` and what follows.

    Attributes:
      extent: how many steps the dilated kernel covers.
      stride: outputs for one input.
      low, high: padding of the dilated input.
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
        """Which of ``count`` outputs are valid: those that a valid input contributes to.

        Args:
          mask: bools (batch, time).

        Returns:
          Bools (batch, count).
        """
        tail = self.low + self.high - self.extent + 1
        xp = _arrays_of(count)
        outputs = xp.arange(count)
        first = -((tail - outputs) // self.stride)  # ceil((output - tail) / stride)
        last = xp.maximum(outputs // self.stride, first)
        width = max(tail // self.stride, 0) + 1
        # All rows of indices have the width of the widest; the rest repeat the last input.
        steps = xp.minimum(first[:, None] + np.arange(width)[None], last[:, None])
        inside = (steps >= 0) & (steps < mask.shape[1])
        valid = jnp.take(mask, steps, axis=1, mode="clip")
        return jnp.any(valid & jnp.broadcast_to(inside, valid.shape), -1)


def _arrays_of(count: int) -> Any:
    """NumPy, whose indices are constants of the program; ``jnp`` for a size that is symbolic."""
    return jnp if is_symbolic(count) else np


def _all_valid(mask: jax.Array, steps: np.ndarray | jax.Array) -> jax.Array:
    """Whether all ``steps`` (outputs, k) of each output are valid."""
    # Stride 1 and one step each, the usual case, is a slice: no gather.
    constant = isinstance(steps, np.ndarray)
    if constant and steps.shape[1] == 1 and steps.size and (np.diff(steps[:, 0]) == 1).all():
        start = int(steps[0, 0])
        return mask[:, start : start + len(steps)]
    return jnp.all(jnp.take(mask, steps, axis=1), -1)
