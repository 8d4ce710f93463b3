"""An argument that selects parameters by their paths: one pattern, or a tuple of them.

``paths.fitting`` and ``paths.fits`` say what they select."""

from __future__ import annotations

from typing import Annotated, Any

from .errors import LayerError
from .specs import format_short


def _patterns(name: str, value: Any) -> str | tuple[str, ...]:
    several = isinstance(value, tuple | list) and value and all(isinstance(p, str) for p in value)
    if not isinstance(value, str) and not several:
        raise LayerError(
            f"{name} must be a pattern or a tuple of patterns, got {format_short(value)}",
            hint='"**/*kernel", or ("**/*kernel", "!head/**")',
        )
    return value if isinstance(value, str) else tuple(value)


Patterns = Annotated[str | tuple[str, ...], _patterns]


def checked_patterns(value: Any) -> tuple[str, ...]:
    """The argument ``pattern`` of a function that is not a factory, as a tuple.

    Raises:
      LayerError: for an empty tuple, and what is not a pattern.
    """
    return each_pattern(_patterns("pattern", value))


def each_pattern(patterns: str | tuple[str, ...]) -> tuple[str, ...]:
    """One pattern or several as a tuple.

    >>> each_pattern("**/bias")
    ('**/bias',)
    """
    return tuple(patterns) if isinstance(patterns, tuple | list) else (patterns,)
