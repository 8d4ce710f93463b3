"""The places of a model that arrays can go to: its layers with parameters or state, in order.

A layer inside a ``repeat`` has one place for each copy, copy after copy: other libraries keep the
blocks of a model one after the other, where here they are stacked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from ..base.layer import Layer
from ..base.tracing import trace
from ..base.types import PyTree
from ..inspection import summary, walk
from .layouts.base import Place


class Target(NamedTuple):
    """A place, and where its arrays go.

    Attributes:
      place: what a layout is asked with.
      arrays: for each name the collection (0 for params, 1 for state), the path of the array, and
        the place among its copies.
    """

    place: Place
    arrays: Mapping[str, tuple[int, str, tuple[int, ...]]]


class _Array(NamedTuple):
    collection: int
    path: str
    shape: tuple[int, ...]
    copies: tuple[int, ...]
    steps: tuple[str | int, ...]


def targets_of(model: Layer, x: PyTree) -> list[Target]:
    """The places of a model, in the order of its layers."""
    # Of several layers at one path, the innermost has the parameters.
    makers = dict(walk(model))
    images = _images(model, x)
    groups: dict[tuple[str | int, ...], list[_Array]] = {}
    for array in _arrays(model, x):
        groups.setdefault(array.steps[:-1], []).append(array)
    found = []
    order = {path: i for i, path in enumerate(makers)}
    ordered = sorted(groups, key=lambda steps: order.get(_path(steps), len(order)))
    for steps, copy in _in_order(ordered):
        arrays = groups[steps]
        path = _path(steps)
        numbers = iter(copy)
        named = "/".join(str(next(numbers)) if isinstance(step, int) else step for step in steps)
        layer = makers.get(path)
        place = Place(
            named,
            layer.maker if layer else "",
            layer._call.checked if layer else {},
            {str(array.steps[-1]): array.shape[len(array.copies) :] for array in arrays},
            images.get(path),
        )
        where = {str(a.steps[-1]): (a.collection, a.path, copy) for a in arrays}
        found.append(Target(place, where))
    return found


def _path(steps: tuple[str | int, ...]) -> str:
    return "/".join(step for step in steps if isinstance(step, str))


def _arrays(model: Layer, x: PyTree) -> Iterator[_Array]:
    """All arrays of params, and those of the state, whose copies are those of the layer."""
    found = trace(model, x)
    copied: dict[str, tuple[str | int, ...]] = {}
    for path, spec in found.parameters.items():
        above, _, name = path.rpartition("/")
        # The key of a length of weight norm is that of its kernel.
        yield _Array(0, path, spec.shape, spec.copies, (*spec.key_path[:-1], name))
        copied[above] = spec.key_path[:-1]
    for keys, leaf in jax.tree_util.tree_leaves_with_path(found.state):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        above, _, name = path.rpartition("/")
        steps = copied.get(above, tuple(above.split("/")) if above else ())
        copies = tuple(step for step in steps if isinstance(step, int))
        yield _Array(1, path, tuple(leaf.shape), copies, (*steps, name))


def _in_order(
    groups: list[tuple[str | int, ...]],
) -> Iterator[tuple[tuple[str | int, ...], tuple[int, ...]]]:
    """Each group with the numbers of a copy: all groups of one copy before those of the next."""

    def run(
        members: list[tuple[str | int, ...]], depth: int, copy: tuple[int, ...]
    ) -> Iterator[tuple[tuple[str | int, ...], tuple[int, ...]]]:
        for head, same in itertools.groupby(members, key=lambda steps: steps[depth : depth + 1]):
            inside = list(same)
            if not head:
                yield from ((steps, copy) for steps in inside)
            elif isinstance(head[0], int):
                for number in range(head[0]):
                    yield from run(inside, depth + 1, (*copy, number))
            else:
                yield from run(inside, depth + 1, copy)

    return run(groups, 0, ())


def _images(model: Layer, x: PyTree) -> dict[str, tuple[int, ...]]:
    """For each layer behind a Flatten, the sizes of the image that was flattened."""
    found: dict[str, tuple[int, ...]] = {}
    if not any(layer.maker == "Flatten" for _, layer in walk(model)):
        return found
    image: tuple[int, ...] | None = None
    # The table of rows asks for the FLOPs of each layer: seconds for a deep network.
    if not any(layer.maker == "Flatten" for _, layer in walk(model)):
        return found
    before: Any = x
    for row in summary(model, x).rows:
        shape = tuple(getattr(before, "shape", ()))
        if row.layer.startswith("Flatten(") and len(shape) > 2:
            image = shape[1:]
        elif row.parameters:
            if image is not None:
                found[row.path] = image
            image = None
        before = row.output
    return found
