"""What layers share that resample images, or move values between channels and space."""

from __future__ import annotations

import math
from typing import Annotated, Any

import jax

from ...base import arguments
from ...base.arguments import Scalar
from ...base.errors import LayerError
from ...base.specs import format_spec

IMAGE = "(batch, *spatial, channels)"


def factors(name: str, value: Any) -> float | tuple[float, ...]:
    """``value`` as a number above 0, or as a tuple of them; a whole one as an int."""
    if isinstance(value, tuple | list) and value:
        return tuple(_factor(name, item) for item in value)
    return _factor(name, value)


def _factor(name: str, value: Any) -> float:
    found = arguments.above_zero(name, value)
    return int(found) if found.is_integer() else found


Factors = Annotated[float | tuple[float, ...], factors]


def spatial(
    x: Any, factor: Scalar | tuple[Scalar, ...], name: str = "factor"
) -> tuple[Scalar, ...]:
    """One number for each spatial axis of (batch, *spatial, channels).

    Raises:
      LayerError: for an input of another rank.
    """
    rank = len(factor) + 2 if isinstance(factor, tuple) else None
    arguments.one_array(x, IMAGE, rank=rank, least_rank=3)
    return arguments.spread(name, factor, len(x.shape) - 2)


# Words of PyTorch, Keras and JAX for what has one name here.
_ELSEWHERE = {
    "bilinear": "linear",
    "trilinear": "linear",
    "triangle": "linear",
    "bicubic": "cubic",
    "nearest-exact": "nearest",
    "round_prefer_ceil": "half_up",
    "round_prefer_floor": "half_down",
    "zeros": "constant",
    "border": "replicate",
    "reflection": "reflect",
}


def check_word(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """``value`` is one of the ``choices``."""
    here = _ELSEWHERE.get(value) if isinstance(value, str) else None
    if here in choices:
        raise LayerError(
            f"unknown {name} {value!r}",
            expected=", ".join(map(repr, choices)),
            hint=f"{name}={here!r}",
        )
    arguments.one_of(name, value, choices)


def check_divides(x: Any, by: tuple[int, ...], what: str, sizes: tuple[int, ...]) -> None:
    """Raises unless each number of ``by`` divides its size."""
    known = [(size, part) for size, part in zip(sizes, by, strict=True) if isinstance(size, int)]
    if any(size % part for size, part in known):
        text = math.prod(by) if len(sizes) == 1 else by
        raise LayerError(f"{text} does not divide the {what}", got=format_spec(x))


def pair(x: Any, names: str, shapes: str) -> tuple[jax.Array, jax.Array]:
    """An image and another array, both of real floating numbers.

    Args:
      names: of the two, ``"(image, grid)"``.
      shapes: of the two, in words.

    Raises:
      LayerError: for anything else.
    """
    both = isinstance(x, tuple | list) and len(x) == 2
    if not both or not all(hasattr(part, "shape") for part in x):
        raise LayerError(f"takes a tuple {names}", expected=shapes, got=format_spec(x))
    arguments.one_array(x[0], IMAGE, least_rank=3)
    for part in x:
        arguments.floating(part)
        arguments.real(part)
    image, other = x
    return image, other
