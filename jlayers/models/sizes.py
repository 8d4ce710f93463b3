"""Sizes by the names that papers give them, and lists of sizes as arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from ..base.arguments import positive
from ..base.errors import LayerError
from ..base.specs import format_short
from .parts import preset


def named(names: str, values: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """A table of sizes: a row of ``values`` for each, in the order of ``names``."""
    return {size: dict(zip(names.split(), row, strict=True)) for size, row in values.items()}


def sized(
    size: str, sizes: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]
) -> tuple[Any, ...]:
    """What a size of that name has, in the order of the table, or what is ``given`` instead.

    Raises:
      LayerError: for a size that is not one of the ``sizes``.
    """
    usual = sizes[preset("size", size, sizes)]
    return tuple(value if given[name] is None else given[name] for name, value in usual.items())


def counts(name: str, value: Any) -> tuple[int, ...]:
    """``value`` as a tuple of positive ints, of at least one."""
    items = _entries(value)
    if not items:
        raise LayerError(f"{name} must be a list of positive ints, got {format_short(value)}")
    return tuple(positive(f"{name}[{i}]", item) for i, item in enumerate(items))


def rows(name: str, value: Any, *, size: int) -> tuple[tuple[int, ...], ...]:
    """``value`` as a tuple of at least one ``counts`` of that ``size``."""
    found = tuple(counts(f"{name}[{i}]", item) for i, item in enumerate(_entries(value)))
    if not found or any(len(item) != size for item in found):
        wanted = f"a list of tuples of {size} positive ints"
        raise LayerError(f"{name} must be {wanted}, got {format_short(value)}")
    return found


def _entries(value: Any) -> tuple[Any, ...]:
    """Those of a list; none of what is not one."""
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return tuple(value) if is_list else ()


# What the annotation of a factory's argument says of it, as those of base/arguments.py.
Counts = Annotated[Sequence[int], counts]
