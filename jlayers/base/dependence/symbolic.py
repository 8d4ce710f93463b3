"""Sizes without a number, as ``jax.export`` has them, and numbers in their place.

A program for any size is one that none of its sizes changed in Python, or it could not have been
traced. So its analysis may have any numbers.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

# As JAX writes them: ``2*b + floordiv(t, 2)``.
_FUNCTIONS = {"floordiv": operator.floordiv, "mod": operator.mod, "max": max, "min": min}
# The first symbol, and what the next ones have more. What layers divide by divides them.
_FIRST, _MORE = 24, 24


def symbols_of(leaves: Sequence[Any]) -> list[str]:
    """The names in the sizes of arrays, in the order in which they come."""
    texts = [str(dim) for leaf in leaves for dim in leaf.shape]
    found = dict.fromkeys(name for text in texts for name in re.findall(r"[^\W\d]\w*", text))
    return [name for name in found if name not in _FUNCTIONS]


def number(dim: Any, numbers: Mapping[str, int]) -> int:
    """A size, where each symbol is a number.

    >>> import jax
    >>> (size,) = jax.export.symbolic_shape("2*b + 1")
    >>> number(size, {"b": 3})
    7
    """
    if isinstance(dim, int):
        return dim
    text = compile(str(dim).replace("^", "**"), "size", "eval")
    return int(eval(text, {"__builtins__": {}}, {**_FUNCTIONS, **numbers}))


def numbered(leaves: Sequence[Any]) -> list[Any]:
    """Specs of arrays whose sizes are numbers, one for each symbol.

    >>> import jax
    >>> rows, steps = jax.export.symbolic_shape("b, t")
    >>> numbered([jax.ShapeDtypeStruct((rows, steps - 1, 3), "float32")])
    [ShapeDtypeStruct(shape=(24, 47, 3), dtype=float32)]
    """
    numbers = {name: _FIRST + _MORE * i for i, name in enumerate(symbols_of(leaves))}
    return [
        jax.ShapeDtypeStruct(tuple(number(dim, numbers) for dim in leaf.shape), leaf.dtype)
        for leaf in leaves
    ]
