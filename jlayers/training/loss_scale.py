"""Dynamic loss scaling: small gradients of float16 kept from becoming zero."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..base.errors import TrainingError


class ScaleState(NamedTuple):
    """Where the scale of the loss stands.

    Attributes:
      scale: float32 (), what the loss is multiplied with.
      good: int32 (), steps since the scale changed whose gradient was finite.
    """

    scale: jax.Array
    good: jax.Array


class LossScale(NamedTuple):
    """The scale grows while gradients stay finite, and shrinks when one is not.

    float16 holds nothing below 6e-8, and gradients often are smaller. The loss is multiplied with
    the scale, so that they are in range on their way back, and they are divided by it in float32.
    A step whose gradient overflows changes nothing but the scale (Micikevicius et al. 2018,
    arXiv:1710.03740).

    Attributes:
      initial: the first scale.
      period: steps with a finite gradient after which the scale is multiplied with ``factor``.
      factor: and by which it is divided when a gradient is not finite.
      least: the scale never is less.

    >>> from jlayers import training
    >>> training.LossScale(initial=1024.0)
    LossScale(initial=1024.0, period=2000, factor=2.0, least=1.0)
    """

    initial: float = 2.0**15
    period: int = 2000
    factor: float = 2.0
    least: float = 1.0

    def start(self) -> ScaleState:
        return ScaleState(jnp.asarray(self.initial, jnp.float32), jnp.zeros((), jnp.int32))

    def next(self, now: ScaleState, finite: jax.Array) -> ScaleState:
        """The scale after a step whose gradient was finite, or was not."""
        good = now.good + 1
        grows = good >= self.period
        # As far as float32 goes: an infinite scale would never come back.
        largest = jnp.asarray(2.0**126, jnp.float32)
        more = jnp.where(grows, jnp.minimum(now.scale * self.factor, largest), now.scale)
        less = jnp.maximum(now.scale / self.factor, self.least)
        none = jnp.zeros_like(good)
        return ScaleState(jnp.where(finite, more, less), jnp.where(finite & ~grows, good, none))


def check_loss_scale(value: Any) -> LossScale | None:
    """The argument ``loss_scale``, checked."""
    if value is None:
        return None
    wanted = value if isinstance(value, LossScale) else None
    if wanted is None or not (
        wanted.initial >= wanted.least > 0 and wanted.period >= 1 and wanted.factor > 1
    ):
        raise TrainingError(
            "loss_scale is no training.LossScale",
            expected="initial >= least > 0, period >= 1, factor > 1",
            got=repr(value),
            hint="loss_scale=training.LossScale()",
        )
    return wanted
