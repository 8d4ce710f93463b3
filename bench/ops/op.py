"""What the benchmark has to know about an operation."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..row import Row

Weights = Any  # a pytree of arrays, in jlayers' layout


class Op(NamedTuple):
    """An operation.

    Args:
      weights: (row, generator) to the parameters, float64, in jlayers' layout. Parameters that only
        some frameworks have (a second bias) are among them, and zero.
      reference: (row, weights, x) to y, in plain JAX, computed in another way than by ``lax``.
      flops: of one forward pass, by row; one multiplication and one addition are two. By default
        none that a matrix unit could do: the floor is the traffic.
      inputs: (row, generator) to x.
      traffic: bytes that must move, (forward, forward and gradient), where they are not those of
        ``x``, the weights and ``y``, each read or written once a pass.
      judge: (row, x, cotangent, y) to the right (y, gradient of x), where that depends on the y
        that was computed, as for dropout.
    """

    weights: Callable[[Row, np.random.Generator], Weights]
    reference: Callable[[Row, Weights, Any], Any]
    flops: Callable[[Row], float] = lambda row: 0
    inputs: Callable[[Row, np.random.Generator], Any] = lambda row, rng: rng.standard_normal(row.x)
    traffic: Callable[[Row], tuple[float, float]] | None = None
    judge: Callable[[Row, Any, Any, Any], tuple[Any, Any]] | None = None


def no_weights(row: Row, rng: np.random.Generator) -> Weights:
    return {}


def normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int = 1) -> np.ndarray:
    """Normal values that keep a layer's output near the size of its input."""
    return rng.standard_normal(shape) / math.sqrt(fan_in)


def spread(value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    """One number for each spatial axis."""
    return value if isinstance(value, tuple) else (value,) * rank
