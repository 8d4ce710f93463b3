"""Copies of a layer as they lie: stacked in one array, as ``repeat`` has them, or side by side.

How to read this file: ``stacked_from`` finds the arrays that one stacked array is made of,
``unstacked_from`` the stacked array and the place of one copy. Both go by the paths alone:
``blocks/kernel`` is the stack of ``blocks/dense/kernel``, ``blocks/dense_1/kernel``, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..base.layer import Layer
from ..base.paths import join


class Copies(NamedTuple):
    """The copies of a ``repeat`` or ``ensemble``.

    Attributes:
      path: of the layer.
      n: how many.
      axis: of its parameters, along which the copies lie.
    """

    path: str
    n: int
    axis: int


class Part(NamedTuple):
    """One copy of a stacked array: its path, and where in it."""

    path: str
    at: int
    axis: int


def copies_in(model: Layer, path: str = "", axis: int = 0) -> Iterator[Copies]:
    """Every layer that holds copies."""
    if model.copies > 1:
        yield Copies(path, model.copies, axis)
        axis += 1
    for name, child in model.children.items():
        yield from copies_in(child, join(path, name), axis)


def stacked_from(
    model: Layer, paths: Iterable[str], old: Iterable[str]
) -> Iterator[dict[str, tuple[list[str], int]]]:
    """For each stack of ``model``, its arrays with the old arrays of the copies, and the axis."""
    paths, old = list(paths), list(old)
    for copies in copies_in(model):
        inside = {path: rest for path in paths if (rest := _below(path, copies.path))}
        sides = _side_by_side(copies.path, inside.values(), old, copies.n)
        if sides is not None:
            places = [join(copies.path, name) for name in sides]
            yield {
                path: ([join(place, rest) for place in places], copies.axis)
                for path, rest in inside.items()
            }


def unstacked_from(
    old: Layer, old_paths: Iterable[str], rename: Callable[[str], str], paths: Iterable[str]
) -> Iterator[dict[str, Part]]:
    """For each stack of ``old``, the arrays of a new model at ``paths`` that are its copies."""
    old_paths, paths = list(old_paths), list(paths)
    for copies in copies_in(old):
        inside = {path: rest for path in old_paths if (rest := _below(path, copies.path))}
        # Where the copies are now: the new path without its last names, the same for all of them.
        places = {_above(rename(path), rest) for path, rest in inside.items()}
        place = places.pop() if len(places) == 1 else None
        if place is None:
            continue
        sides = _side_by_side(place, inside.values(), paths, copies.n)
        if sides is not None:
            yield {
                join(join(place, name), rest): Part(path, i, copies.axis)
                for i, name in enumerate(sides)
                for path, rest in inside.items()
            }


def _below(path: str, place: str) -> str | None:
    """The rest of a path inside ``place``; None where it is not."""
    if not place:
        return path
    return path.removeprefix(f"{place}/") if path.startswith(f"{place}/") else None


def _above(path: str, rest: str) -> str | None:
    if path == rest:
        return ""
    return path.removesuffix(f"/{rest}") if path.endswith(f"/{rest}") else None


def _side_by_side(
    place: str, rests: Iterable[str], paths: Iterable[str], n: int
) -> list[str] | None:
    """The names of n layers at ``place`` that have the same arrays inside, in their order."""
    wanted = set(rests)
    # In the order of the model's table, which is that of the layers.
    names: dict[str, set[str]] = {}
    for path in paths:
        below = _below(path, place)
        name, _, rest = (below or "").partition("/")
        if rest:
            names.setdefault(name, set()).add(rest)
    sides = [name for name, inside in names.items() if inside == wanted]
    return sides if wanted and len(sides) == n else None
