"""Nested dicts, lists and objects as arrays by name."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...base.errors import InteropError
from .records import Array, Global, Record, Tensor

_DEEPEST = 100
_KEPT = (dict, list, tuple, Record, Tensor, Array)


def named_arrays(root: object, where: str, join: str, most: int) -> dict[str, np.ndarray]:
    """The arrays below ``root``, in their order; a path of keys and indices is a name.

    Numbers, text, None and other values are left out, and what an object has of the objects that it
    is in, such as its parent. An array by itself has the name "".

    Args:
      root: what ``load`` returned.
      where: the file, for errors.
      join: between the parts of a name.
      most: of the entries to visit; a few bytes of a file can describe more than there are atoms.

    Raises:
      InteropError: if two arrays have one name, or dicts are too many, too deep or in a circle.
    """
    arrays: dict[str, np.ndarray] = {}
    # Iterative, so that no depth of a file meets Python's limit.
    stack: list[tuple[str, object, int, frozenset[int]]] = [("", root, 0, frozenset())]
    while stack:
        name, node, depth, above = stack.pop()
        most -= len(name) + _width(node)
        if most < 0:
            raise InteropError(f"{where} has more entries, by references, than its size explains")
        if isinstance(node, Tensor | Array):
            array = node.array(f"{where}: {name!r}")
            if array.dtype.kind in "SU":
                continue
            if name in arrays:
                raise InteropError(f"{where} has two arrays with the name {name!r}")
            arrays[name] = array
            continue
        if depth == _DEEPEST and _width(node):
            raise InteropError(
                f"{where} is nested deeper than {_DEEPEST} dicts or lists", got=name[:80]
            )
        prefix = name + join if depth else ""
        if type(node) is Record:
            above = above | {id(node)}
        below = [
            (prefix + key, value, depth + 1, above)
            for key, value in _children(node)
            if id(value) not in above
        ]
        stack += reversed(below)
    return arrays


def _width(node: object) -> int:
    if type(node) is Record:
        return len(node.entries) + len(node.items)
    return len(node) if isinstance(node, dict | list | tuple) else 1


def _children(node: object) -> list[tuple[str, object]]:
    if type(node) is Record:
        return _children(node.entries) + _children(node.items)
    if isinstance(node, dict):
        pairs: Iterable[tuple[object, object]] = node.items()
    else:
        pairs = enumerate(node) if type(node) is list or type(node) is tuple else ()
    # Numbers by the million are common beside arrays: losses, steps.
    return [(_key(key), value) for key, value in pairs if isinstance(value, _KEPT)]


def _key(key: object) -> str:
    if type(key) is bytes:
        return key.decode("latin1")
    return key.name if type(key) is Global else str(key)
