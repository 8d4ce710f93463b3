"""What layers share that move values between channels and space."""

from __future__ import annotations

import math
from typing import Any

from ...base import arguments
from ...base.arguments import Scalar
from ...base.errors import LayerError
from ...base.specs import format_spec


def spatial(
    x: Any, factor: Scalar | tuple[Scalar, ...], name: str = "factor"
) -> tuple[Scalar, ...]:
    """One number for each spatial axis of (batch, *spatial, channels).

    Raises:
      LayerError: for an input of another rank.
    """
    rank = len(factor) + 2 if isinstance(factor, tuple) else None
    arguments.one_array(x, "(batch, *spatial, channels)", rank=rank, least_rank=3)
    return arguments.spread(name, factor, len(x.shape) - 2)


def check_divides(x: Any, by: tuple[int, ...], what: str, sizes: tuple[int, ...]) -> None:
    """Raises unless each number of ``by`` divides its size."""
    known = [(size, part) for size, part in zip(sizes, by, strict=True) if isinstance(size, int)]
    if any(size % part for size, part in known):
        text = math.prod(by) if len(sizes) == 1 else by
        raise LayerError(f"{text} does not divide the {what}", got=format_spec(x))
