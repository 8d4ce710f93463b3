"""Checks of the arguments that say which steps see one another, and where they are."""

from __future__ import annotations

from typing import Annotated, Any

from ...base import arguments
from ...base.errors import LayerError
from ...base.specs import format_short
from ...core import Rope
from .relative import Relative, ShawPositions, T5Bias, TransformerXLPositions


def _window(name: str, value: Any) -> int | tuple[int, int]:
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise LayerError(f"{name} must be an int or (before, after), got {value!r}")
        before, after = (arguments.integer(name, entry, 0) for entry in value)
        return before, after
    return arguments.positive(name, value)


def _rope(name: str, value: Any) -> float | Rope | bool:
    # Before the check of numbers: True is one.
    if isinstance(value, bool | Rope):
        return value
    return arguments.above_zero(name, value)


def _alibi(name: str, value: Any) -> bool | tuple[float, ...]:
    if isinstance(value, tuple | list):
        return tuple(arguments.any_number(name, entry) for entry in value)
    return arguments.flag(name, value)


def _relative(name: str, value: Any) -> Relative:
    if not isinstance(value, T5Bias | ShawPositions | TransformerXLPositions):
        hint = f"{value.__name__}(...)" if isinstance(value, type) else None
        got = format_short(value)
        raise LayerError(
            f"{name} must be a T5Bias, ShawPositions or TransformerXLPositions, got {got}",
            hint=hint,
        )
    return value


WindowSize = Annotated[int | tuple[int, int], _window]
RopeOption = Annotated[bool | float | Rope, _rope]
AlibiOption = Annotated[bool | tuple[float, ...], _alibi]
RelativeOption = Annotated[Relative, _relative]


def rope_of(rope: bool | float | Rope) -> float | Rope | None:
    """What ``core.apply_rope`` takes, or None."""
    # 10000 is the base of the paper.
    if isinstance(rope, bool):
        return 10000.0 if rope else None
    return rope


def check_rope(rope: float | Rope | None, size: int) -> None:
    """Raises unless the features that are rotated are pairs."""
    if rope is None:
        return
    rotated = rope.rotated(size) if isinstance(rope, Rope) else size
    if rotated % 2 and rotated == size:
        raise LayerError(
            f"rope turns pairs of features, and a head has {size}",
            hint="head_dim=..., an even number",
        )
    if rotated % 2 or not rotated:
        raise LayerError(
            f"rope turns pairs of features, and its fraction of the {size} of a head is {rotated}",
            hint="another fraction=, or head_dim=...",
        )
