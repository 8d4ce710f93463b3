"""Sizes by the names that papers give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..base.errors import LayerError
from ..base.specs import format_short


def sized(size: str, sizes: Mapping[str, Mapping[str, Any]], **given: Any) -> tuple[Any, ...]:
    """The ``given`` values, in their order; for those that are None, what a size of that name has.

    Raises:
      LayerError: for a size that is not one of the ``sizes``.
    """
    if not isinstance(size, str) or size not in sizes:
        known = ", ".join(map(repr, sizes))
        raise LayerError(f"unknown size {format_short(size)}", expected=known)
    usual = sizes[size]
    return tuple(usual[name] if value is None else value for name, value in given.items())
