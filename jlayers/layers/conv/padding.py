"""The padding of an input with windows: for each of its axes, and whether windows fit into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...base.arguments import Paddings, spatial_axes
from ...base.errors import LayerError
from ...base.specs import format_spec
from ...core.padding import for_each_axis


def spread_padding(value: Paddings, rank: int) -> tuple[str | tuple[int, int], ...]:
    """A name or a (low, high) for each of ``rank`` spatial axes."""
    if isinstance(value, str):
        return for_each_axis(value, rank)
    if isinstance(value, int):
        return ((value, value),) * rank
    if len(value) != rank:
        raise LayerError(
            f"padding {value} has {len(value)} entries for {spatial_axes(rank)}",
            expected=f"a name, an int, or {rank} of: a name, a pair (low, high)",
        )
    return tuple(value)  # type: ignore[arg-type]


def window_fits(
    x: Any,
    sizes: Sequence[int],
    window: Sequence[int],
    padding: Sequence[str | tuple[int, int]],
    what: str,
) -> None:
    """The window (a dilated kernel, say) is at most as large as the padded ``sizes`` of ``x``."""
    pads = [(0, 0) if isinstance(item, str) else item for item in padding]
    room = [size + low + high for size, (low, high) in zip(sizes, pads, strict=True)]
    # SAME and most other names pad by as much as the window needs, and a symbolic size is as large
    # as need be.
    if any(
        have < want
        for item, have, want in zip(padding, room, window, strict=True)
        if isinstance(have, int) and (item == "VALID" or not isinstance(item, str))
    ):
        raise LayerError(
            f"{what} {tuple(window)} is larger than the {'padded ' if room != [*sizes] else ''}"
            f"input {tuple(room)}",
            got=format_spec(x),
            hint=f"padding='SAME', or a smaller {what.split()[-1]}",
        )
