"""Windows over time: which outputs of a windowed operation are valid, for a mask of its steps.

A row of n valid steps has as many valid outputs as an input of n steps would have outputs. Holes in
a mask are steps that read as zeros, or as nothing at all for a pool.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .dtypes import is_symbolic
from .padding import ZEROS


class TimeWindow(NamedTuple):
    """The window of a convolution or pool along time; output t starts at ``stride * t - low``.

    Attributes:
      extent: how many steps it covers, those between the elements of a dilated kernel included.
      stride: steps from one window to the next.
      low, high: padding before and after all steps.
      same: whether the padding is ``"SAME"``, for which every ``stride`` steps, or a part of them
        at the end, make an output.
      mode: what is in the padding, as in ``padding.MODES``.
      input_dilation: steps of the operation for one step of its input: it puts zeros between them.
      ceil: whether there is an output for a last stride that is cut off, as ``ceil_padding`` has it
        for the padding ``low`` and ``high``.

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
    mode: str = ZEROS
    input_dilation: int = 1
    ceil: bool = False

    @property
    def causal(self) -> bool:
        """Whether no window reaches beyond the ``stride`` steps that come with its output.

        Output t then depends on the steps before ``stride * (t + 1)`` alone, and a block of
        ``stride * k`` steps has k outputs.
        """
        zeros = self.mode == ZEROS or not (self.low or self.high)
        plain = zeros and self.input_dilation == 1 and not self.ceil
        if not plain or (self.low == self.extent - 1 and self.high == 0):
            return plain
        # Where SAME puts its windows depends on the length, which a stream does not know.
        ends_inside = 0 <= self.extent - 1 - self.low < self.stride
        return not self.same and ends_inside and self.low + self.high < self.extent

    @property
    def reach(self) -> tuple[float, float]:
        """How many steps before ``stride * t`` output t depends on, and how many after."""
        before, after = self.low, self.extent - 1 - self.low
        if self.mode == "circular" and (self.low or self.high):
            return math.inf, math.inf
        # At the edges, padding is read in place of steps, and has its values from others.
        if self.mode == "reflect":
            return max(before, 2 * self.high - after), max(after, self.low)
        if self.mode == "replicate":
            return max(before, self.high - after), max(after, 0)
        return before, after

    @property
    def block(self) -> int:
        """The steps of a stream come in multiples of so many."""
        return self.stride

    @property
    def padding_after_context(self) -> tuple[int, int]:
        """The padding of a block that follows its context."""
        return 0, 0

    @property
    def context(self) -> int:
        """How many steps before a block its outputs depend on, if causal."""
        return self.low

    def outputs(self, mask: jax.Array, count: int) -> jax.Array:
        """Which of ``count`` outputs are valid: those whose window ends in a valid step.

        The end is that of the window without its share of the padding; all steps between
        ``stride * t`` and there have to be valid.

        Args:
          mask: bools (batch, time).

        Returns:
          Bools (batch, count).
        """
        mask = _dilated(mask, self.input_dilation)
        # The part of the window that is not accounted for by padding.
        span = 0 if self.same else self.extent - 1 - self.low - self.high
        if self.ceil:
            span = max(span - (self.stride - 1), -self.low)
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
      mode: ``"circular"`` where inputs are in it, or zeros.
    """

    extent: int
    stride: int
    low: int
    high: int
    mode: str = ZEROS

    @property
    def causal(self) -> bool:
        """Whether outputs ``stride * t`` to ``stride * t + stride - 1`` need no step after t."""
        plain = self.mode == ZEROS
        return plain and self.low == self.extent - 1 and self.high == self.stride - 1

    @property
    def reach(self) -> tuple[float, float]:
        """How many steps of the dilated input before output t it depends on, and after."""
        if self.mode == "circular":
            return math.inf, math.inf
        return self.low, self.extent - 1 - self.low

    @property
    def context(self) -> int:
        """How many steps before a block its outputs depend on, if causal."""
        return (self.extent - 1) // self.stride

    @property
    def block(self) -> int:
        """A stream takes any number of steps."""
        return 1

    @property
    def padding_after_context(self) -> tuple[int, int]:
        """The padding of the dilated block after its context, whose own outputs are left out."""
        return (self.extent - 1) % self.stride, self.stride - 1

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


def _dilated(mask: jax.Array, factor: int) -> jax.Array:
    """The mask of the steps with ``factor - 1`` between them: those between two valid ones."""
    if factor == 1 or mask.shape[1] == 0:
        return mask
    between = jnp.repeat((mask[:, :-1] & mask[:, 1:])[..., None], factor - 1, -1)
    steps = jnp.concatenate([mask[:, :-1, None], between], -1)
    steps = steps.reshape(mask.shape[0], -1)
    return jnp.concatenate([steps, mask[:, -1:]], 1)


def _arrays_of(count: int) -> Any:
    """NumPy, whose indices are constants of the program; ``jnp`` for a size that is symbolic."""
    return jnp if is_symbolic(count) else np


def _all_valid(mask: jax.Array, steps: np.ndarray | jax.Array) -> jax.Array:
    """Whether all ``steps`` (outputs, k) of each output are valid."""
    # Stride 1 and one step each, the usual case, is a slice: no gather.
    constant = isinstance(steps, np.ndarray)
    if constant and not steps.size:
        return mask[:, :0]
    if constant and steps.shape[1] == 1 and (np.diff(steps[:, 0]) == 1).all():
        start = int(steps[0, 0])
        return mask[:, start : start + len(steps)]
    return jnp.all(jnp.take(mask, steps, axis=1), -1)
