"""Other frequencies of rotary positions, for sequences longer than those of the training.

Each is a value with ``frequencies(plain, base)``, from the float64 angles of one position to those
that are used, and ``amplitude``, by which queries and keys are multiplied on the way.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np


class RopeScaling(Protocol):
    """What ``Rope(scaling=)`` takes."""

    @property
    def amplitude(self) -> float:
        """By which rotated features are multiplied."""

    def frequencies(self, plain: np.ndarray, base: float) -> np.ndarray:
        """The angles of one position, of those without scaling: float64 (pairs,)."""


def _above(least: float, **numbers: float) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or number < least:
            raise ValueError(f"{name} must be a number of at least {least:g}, got {number!r}")


@dataclasses.dataclass(frozen=True)
class LinearScaling:
    """All angles divided by ``factor`` (Chen et al., 2023, arXiv:2306.15595).

    >>> import jlayers as jl
    >>> jl.Rope(scaling=jl.LinearScaling(4.0)).frequencies(4).tolist()
    [0.25, 0.0025]
    """

    factor: float
    amplitude: float = dataclasses.field(default=1.0, init=False, repr=False)

    def __post_init__(self) -> None:
        _above(1, factor=self.factor)

    def frequencies(self, plain: np.ndarray, base: float) -> np.ndarray:
        """As ``RopeScaling`` says."""
        return plain / self.factor


@dataclasses.dataclass(frozen=True)
class NTKScaling:
    """A larger base: the slowest angle is divided by ``factor``, and the fastest stays.

    The base is multiplied by ``factor ** (n / (n - 1))`` for n pairs of features ("NTK-aware").

    >>> import jlayers as jl
    >>> jl.Rope(scaling=jl.NTKScaling(4.0)).frequencies(4).tolist()
    [1.0, 0.0025]
    """

    factor: float
    amplitude: float = dataclasses.field(default=1.0, init=False, repr=False)

    def __post_init__(self) -> None:
        _above(1, factor=self.factor)

    def frequencies(self, plain: np.ndarray, base: float) -> np.ndarray:
        """As ``RopeScaling`` says."""
        pairs = len(plain)
        return plain * self.factor ** (-np.arange(pairs) / max(pairs - 1, 1))


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """Slow angles are divided by ``factor``, fast ones stay (Peng et al., 2023, arXiv:2309.00071).

    Between the pairs that turn ``slow`` and ``fast`` times in ``original_steps``, the share of the
    one and the other goes over linearly.

    Attributes:
      factor: how many times longer sequences may be.
      original_steps: the longest sequence of the training before.
      fast, slow: numbers of turns.
      amplitude: of rotated queries and keys; ``0.1 log(factor) + 1`` if None.
      truncate: whether the first and the last pair between are rounded to the whole.

    >>> import jlayers as jl
    >>> jl.YarnScaling(1.0, 4096).amplitude
    1.0
    """

    factor: float
    original_steps: int
    fast: float = 32.0
    slow: float = 1.0
    amplitude: Any = None
    truncate: bool = True

    def __post_init__(self) -> None:
        _above(1, factor=self.factor, original_steps=self.original_steps)
        if self.amplitude is None:
            object.__setattr__(self, "amplitude", 0.1 * math.log(self.factor) + 1)

    def frequencies(self, plain: np.ndarray, base: float) -> np.ndarray:
        """As ``RopeScaling`` says."""
        pairs = len(plain)

        def pair(turns: float) -> float:
            """The pair that turns so often in the steps of the training."""
            steps = self.original_steps / (2 * math.pi * turns)
            return pairs * math.log(steps) / math.log(base)

        first, last = pair(self.fast), pair(self.slow)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * pairs - 1)
        # As in the paper's code, which keeps from dividing by zero.
        width = last - first if last != first else 0.001
        slow = np.clip((np.arange(pairs) - first) / width, 0, 1)
        scaled: np.ndarray = plain * (1 - slow) + plain / self.factor * slow
        return scaled


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """As Llama 3.1 does it (Grattafiori et al., 2024, arXiv:2407.21783).

    Angles of waves longer than ``original_steps / low`` are divided by ``factor``, those of waves
    shorter than ``original_steps / high`` stay, and between them the share goes over linearly.

    >>> import jlayers as jl
    >>> rope = jl.Rope(500000.0, scaling=jl.Llama3Scaling(8.0, 8192))
    >>> bool(rope.frequencies(128)[0] == 1.0)
    True
    """

    factor: float
    original_steps: int
    low: float = 1.0
    high: float = 4.0
    amplitude: float = dataclasses.field(default=1.0, init=False, repr=False)

    def __post_init__(self) -> None:
        _above(1, factor=self.factor, original_steps=self.original_steps)
        if not 0 < self.low < self.high:
            raise ValueError(f"low must be above 0 and below high, got {self.low} and {self.high}")

    def frequencies(self, plain: np.ndarray, base: float) -> np.ndarray:
        """As ``RopeScaling`` says."""
        waves = self.original_steps * plain / (2 * math.pi)
        fast = np.clip((waves - self.low) / (self.high - self.low), 0, 1)
        scaled: np.ndarray = plain * fast + plain / self.factor * (1 - fast)
        return scaled
