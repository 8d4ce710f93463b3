"""Which arrays go to which place, of those that fit it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .layouts.base import Layout, Place

# As bidirectional layers call their halves: "forward_gru", "backward_layer"; torch's end so.
_BACKWARD = re.compile(r"(^|/)(backward|bwd)|_reverse$", re.IGNORECASE)
_FORWARD = re.compile(r"(^|/)(forward|fwd)", re.IGNORECASE)


class Fit(NamedTuple):
    """Arrays below a prefix that fit a place.

    Attributes:
      prefix: of the names, with ``/`` between their parts.
      layout: that turns them into ours.
      names: those that it takes, as they are in the file, by their names below the prefix.
    """

    prefix: str
    layout: Layout
    names: Mapping[str, str]


def other_direction(place: Place, fit: Fit) -> bool:
    """Whether the arrays say that they are of the other half of a bidirectional layer.

    Some files have the backward half first, so that order would swap the two.
    """
    here = place.path.rpartition("/")[2]
    if here not in ("forward", "backward"):
        return False
    backward = any(_BACKWARD.search(name) for name in (fit.prefix, *fit.layout.needs))
    forward = bool(_FORWARD.search(fit.prefix)) or "weight_ih_l" in fit.layout.needs[0]
    return backward if here == "forward" else forward and not backward


def paired(
    places: Sequence[Place], fits: Sequence[Sequence[Fit]], *, in_order_of_use: bool = False
) -> tuple[list[tuple[int, Fit, str]], dict[str, list[str]]]:
    """Places by their numbers with what was found for them, and those that several prefixes fit.

    Args:
      in_order_of_use: whether the arrays are in the order in which a graph uses them, and not in
        that in which layers were defined, where either branch of a sum may come first.
    """
    still = _Open(fits)
    for i, place in enumerate(places):
        named = [fit for fit in still.of(i) if fit.prefix == place.path]
        if named:
            still.choose(i, named[0], "name")
    changed = True
    while changed:
        changed = False
        for i in range(len(places)):
            if still.only_one(i):
                still.choose(i, still.of(i)[0], "the only one that fits")
                changed = True
        changed = changed or _by_order(still, places, in_order_of_use)
    ambiguous = {
        places[i].path: [fit.prefix for fit in left]
        for i in still.places()
        if (left := still.of(i))
    }
    return [(i, *still.chosen[i]) for i in sorted(still.chosen)], ambiguous


class _Open:
    """What fits each place that has nothing yet, of arrays that are not used yet.

    Who wants an array is kept beside, so that a choice looks only at those whom it concerns: a
    model of hundreds of layers has thousands of fits.
    """

    def __init__(self, fits: Sequence[Sequence[Fit]]) -> None:
        self.chosen: dict[int, tuple[Fit, str]] = {}
        self._open = {i: list(here) for i, here in enumerate(fits)}
        self._wanted: dict[str, set[int]] = {}
        for i, here in self._open.items():
            self._want(i, here)

    def _want(self, i: int, here: Sequence[Fit]) -> None:
        for fit in here:
            for name in fit.names.values():
                self._wanted.setdefault(name, set()).add(i)

    def places(self) -> Iterator[int]:
        return iter(self._open)

    def of(self, i: int) -> list[Fit]:
        return self._open.get(i, [])

    def only_one(self, i: int) -> bool:
        """Whether one prefix fits the place, and its arrays fit no other."""
        left = self.of(i)
        return len(left) == 1 and all(self._wanted[name] == {i} for name in left[0].names.values())

    def choose(self, i: int, fit: Fit, how: str) -> None:
        self.chosen[i] = fit, how
        concerned = {i}.union(*(self._wanted[name] for name in fit.names.values()))
        used = set(fit.names.values())
        for j in concerned:
            for other in self._open[j]:
                for name in other.names.values():
                    self._wanted[name].discard(j)
            left = [] if j == i else [f for f in self._open[j] if used.isdisjoint(f.names.values())]
            self._open[j] = left
            self._want(j, left)
        del self._open[i]


def _beside(places: Iterable[Place]) -> bool:
    """Whether a place is in the shortcut of a residual block and another one in its body."""
    sides: dict[str, set[str]] = {}
    for place in places:
        parts = place.path.split("/")
        for i, part in enumerate(parts):
            if part in ("body", "shortcut"):
                sides.setdefault("/".join(parts[:i]), set()).add(part)
    return any(len(found) > 1 for found in sides.values())


def _by_order(still: _Open, places: Sequence[Place], in_order_of_use: bool) -> bool:
    """Pairs places with as many prefixes, all of which fit all of them; whether there were any."""
    alike: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for i in still.places():
        names = tuple(tuple(fit.names.values()) for fit in still.of(i))
        if names:
            alike.setdefault(names, []).append(i)
    for names, group in alike.items():
        every = [name for some in names for name in some]
        if not in_order_of_use and _beside(places[i] for i in group):
            continue
        if len(group) == len(names) and len(set(every)) == len(every):
            options = [still.of(i) for i in group]
            for number, i in enumerate(group):
                still.choose(i, options[number][number], "order")
            return True
    return False
