"""ReceptiveField: the input steps that one output step depends on."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

from .errors import LayerError


class ReceptiveField(NamedTuple):
    """Output step t depends on the input steps ``stride * t - lookback`` to
    ``stride * t + lookahead``.

    Attributes:
      stride: input steps for one output step, less than one where there are more outputs.
      lookback, lookahead: how many steps before and after; ``math.inf`` for no bound, negative
        where the output does not depend on the nearest steps.

    >>> import jlayers as jl
    >>> jl.receptive_field(jl.Conv(4, 3, padding="CAUSAL", dilation=2), jl.spec((1, 8, 2)))
    ReceptiveField(stride=1, lookback=4, lookahead=0)
    """

    stride: int | Fraction = 1
    lookback: float | Fraction = 0
    lookahead: float | Fraction = 0

    @property
    def size(self) -> float | Fraction:
        """How many input steps there are from the first to the last one used."""
        return self.lookback + self.lookahead + 1

    @property
    def latency(self) -> float | Fraction:
        """How many input steps after step ``stride * t`` are needed before output t is known."""
        return max(self.lookahead, 0)

    def compose(self, after: ReceptiveField) -> ReceptiveField:
        """The receptive field of a layer with ``after`` on top of one with this one."""
        return ReceptiveField(
            # Fractions are exact: a transposed convolution has a stride below 1.
            _plain(Fraction(self.stride) * after.stride),  # type: ignore[arg-type]
            _plain(self.lookback + _times(self.stride, after.lookback)),
            _plain(self.lookahead + _times(self.stride, after.lookahead)),
        )

    def merge(self, other: ReceptiveField) -> ReceptiveField:
        """The receptive field of two outputs that are joined.

        Raises:
          LayerError: for different strides, where the joined steps would be of different times.
        """
        if self.stride != other.stride:
            raise LayerError(
                "cannot join sequences of different strides",
                got=f"{self.stride} and {other.stride}",
            )
        return ReceptiveField(
            self.stride, max(self.lookback, other.lookback), max(self.lookahead, other.lookahead)
        )


def _times(stride: int | Fraction, steps: float | Fraction) -> float | Fraction:
    """``stride * steps``, exact where it is finite."""
    # There is no Fraction of infinity, and 0 times it would be NaN.
    return steps if math.isinf(steps) else stride * Fraction(steps)


def _plain(number: float | Fraction) -> float | Fraction:
    # 2 and not Fraction(2, 1), as users write it.
    whole = isinstance(number, Fraction) and number.denominator == 1
    return int(number) if whole else number


# Bounds that are too wide are safe: the true field lies inside.
EVERYWHERE = ReceptiveField(1, math.inf, math.inf)
CAUSAL = ReceptiveField(1, math.inf, 0)
