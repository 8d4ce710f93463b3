"""Dynamic loss scaling: it keeps small gradients of float16 from becoming zero."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..base.errors import TrainingError


class ScaleState(NamedTuple):
    """The current scale of the loss.

    Attributes:
      scale: float32 (), what the loss is multiplied by.
      good: int32 (), steps with a finite gradient since the scale changed.
    """

    scale: jax.Array
    good: jax.Array


class LossScale(NamedTuple):
    """How the scale grows while gradients stay finite, and shrinks when one is not.

    float16 holds nothing below 6e-8, and gradients often are smaller. The loss is multiplied by
    the scale, so that gradients are in range during the backward pass, and they are divided by it
    in float32. A step whose gradient overflows changes nothing but the scale (Micikevicius et al.
    2018, arXiv:1710.03740).

    Attributes:
      initial: the first scale.
      period: steps with a finite gradient after which the scale is multiplied by ``factor``.
      factor: also what the scale is divided by when a gradient is not finite.
      least: the scale is never less.

    >>> from jlayers import training
    >>> training.LossScale(initial=1024.0)
    LossScale(initial=1024.0, period=2000, factor=2.0, least=1.0)
    """

    # Powers of two only move the exponent, so that scaling costs a gradient no digit. The period
    # and the factor are the defaults of PyTorch's GradScaler and of jmp.
    initial: float = 2.0**15
    period: int = 2000
    factor: float = 2.0
    least: float = 1.0

    def start(self) -> ScaleState:
        return ScaleState(jnp.asarray(self.initial, jnp.float32), jnp.zeros((), jnp.int32))

    def next(self, now: ScaleState, finite: jax.Array) -> ScaleState:
        """The scale after a step, from whether its gradient was finite."""
        good = now.good + 1
        grows = good >= self.period
        # Within float32: an infinite scale would never come back.
        largest = jnp.asarray(2.0**126, jnp.float32)
        more = jnp.where(grows, jnp.minimum(now.scale * self.factor, largest), now.scale)
        less = jnp.maximum(now.scale / self.factor, self.least)
        zero = jnp.zeros_like(good)
        return ScaleState(jnp.where(finite, more, less), jnp.where(finite & ~grows, good, zero))


def check_loss_scale(value: object) -> LossScale | None:
    """The argument ``loss_scale``, checked."""
    if value is None:
        return None
    scale = value if isinstance(value, LossScale) else None
    if scale is None or not (
        scale.initial >= scale.least > 0 and scale.period >= 1 and scale.factor > 1
    ):
        raise TrainingError(
            "loss_scale must be a training.LossScale",
            expected="initial >= least > 0, period >= 1, factor > 1",
            got=repr(value),
            hint="loss_scale=training.LossScale()",
        )
    return scale
