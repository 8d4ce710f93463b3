"""Sizes by the names that papers give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .parts import preset


def sized(size: str, sizes: Mapping[str, Mapping[str, Any]], **given: Any) -> tuple[Any, ...]:
    """The ``given`` values, in their order; for those that are None, what a size of that name has.

    Raises:
      LayerError: for a size that is not one of the ``sizes``.
    """
    usual = sizes[preset("size", size, sizes)]
    return tuple(usual[name] if value is None else value for name, value in given.items())
