"""Reach: which steps of its input one step of an output is made of."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

from .errors import LayerError


class Reach(NamedTuple):
    """Output step t is made of the input steps ``stride * t - past`` to ``stride * t + future``.

    Attributes:
      stride: input steps for one output step, less than one where there are more outputs.
      past, future: how far it sees, in input steps; ``math.inf`` where there is no bound. Negative
        where it sees none so near.

    >>> import jlayers as jl
    >>> jl.reach(jl.Conv(4, 3, padding="CAUSAL", dilation=2), jl.spec((1, 8, 2)))
    Reach(stride=1, past=4, future=0)
    """

    stride: int | Fraction = 1
    past: float | Fraction = 0
    future: float | Fraction = 0

    @property
    def receptive_field(self) -> float | Fraction:
        """How many input steps lie between the first and the last one seen, both counted."""
        return self.past + self.future + 1

    @property
    def latency(self) -> float | Fraction:
        """Input steps that have to come in after step ``stride * t`` before output t is known."""
        return max(self.future, 0)

    def then(self, after: Reach) -> Reach:
        """What a layer of reach ``after`` on top of one of this reach sees."""
        return Reach(
            _plain(Fraction(self.stride) * after.stride),  # type: ignore[arg-type]
            _plain(self.past + _times(self.stride, after.past)),
            _plain(self.future + _times(self.stride, after.future)),
        )

    def beside(self, other: Reach) -> Reach:
        """What two outputs of these reaches see when they are joined.

        Raises:
          LayerError: for different strides: then steps that are joined belong to different times.
        """
        if self.stride != other.stride:
            raise LayerError(
                "joins sequences of different strides", got=f"{self.stride} and {other.stride}"
            )
        return Reach(self.stride, max(self.past, other.past), max(self.future, other.future))


def _times(stride: int | Fraction, steps: float | Fraction) -> float | Fraction:
    """Exact where there is a bound."""
    return steps if math.isinf(steps) else stride * Fraction(steps)


def _plain(number: float | Fraction) -> float | Fraction:
    whole = isinstance(number, Fraction) and number.denominator == 1
    return int(number) if whole else number


EVERYWHERE = Reach(1, math.inf, math.inf)
CAUSAL = Reach(1, math.inf, 0)
