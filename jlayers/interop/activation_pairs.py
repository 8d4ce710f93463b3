"""Which activation of the original belongs to which layer of ours, and why.

How to read this file: ``paired`` goes from what is certain to what is likely. A plan, rules and
names say which layer is which, whatever the values are. Of the others, equal values are the best
evidence there is: random input makes them equal by no accident. What is left is paired between its
neighbours by order, shape and kind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..base.sequence import is_sequence
from ..inspection.taps import Activation
from .activation_layouts import Comparison, Shape, compare, fingerprint, layouts
from .matching import Plan
from .references import Given
from .rules import paths_of

# Fewer numbers, or equal ones, agree by accident.
_ENOUGH = 8
# Times what is allowed: rounding adds up over layers.
_ROUNDED = 10
# What a layer of ours is called elsewhere, where that is not its own name.
_KINDS = {
    "Dense": ("linear", "gemm", "matmul"),
    "LayerNorm": ("layernorm",),
    "BatchNorm": ("batchnorm",),
    "SelfAttention": ("attention",),
    "Flatten": ("reshape",),
    "GlobalAvgPool": ("averagepool", "adaptiveavgpool", "mean"),
    "serial": ("sequential", "functional", "block"),
}
# Elsewhere such a layer gives the positions alone, which ours has added to its input. Of one row
# both have the same shape.
_ADDS = ("PositionEmbedding",)


# ``allowed(ours, theirs)``: how much they may differ, over the largest number.
Allowed = Callable[[np.ndarray, np.ndarray], float]


class Ours(NamedTuple):
    """An activation of ours, ready to be compared.

    Attributes:
      path: with ``#2`` and so on for further calls of a layer.
      activation: as it was recorded.
      value: its array, of several the first.
      mask: of a ``Sequence``, or None.
    """

    path: str
    activation: Activation
    value: np.ndarray
    mask: np.ndarray | None


def _adds(one: Ours) -> bool:
    return one.activation.site.layer.maker in _ADDS


class Pair(NamedTuple):
    """An activation of ours and one of theirs, by their numbers.

    Attributes:
      ours, theirs: numbers.
      how: ``"plan"``, ``"rule"``, ``"name"``, ``"equal values"`` or ``"order"``.
      comparison: of the two.
    """

    ours: int
    theirs: int
    how: str
    comparison: Comparison


def ours_of(activations: Sequence[Activation]) -> list[Ours]:
    """What is compared: of a transparent wrapper and the layer inside it, the wrapper's."""
    last = {(one.path, one.call): one for one in activations}
    found = []
    for one in activations:
        if last[one.path, one.call] is not one:
            continue
        leaves = jax.tree.leaves(one.value, is_leaf=is_sequence)
        if leaves:
            name = f"{one.path}#{one.call + 1}" if one.call else one.path
            found.append(Ours(name, one, *value_and_mask(leaves[0])))
    return found


def value_and_mask(leaf: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The numbers of an array, which has no mask, or of a ``Sequence``."""
    if is_sequence(leaf):
        return np.asarray(leaf.values), np.asarray(leaf.mask)
    return np.asarray(leaf), None


def images_of(ours: Sequence[Ours]) -> tuple[Shape, ...]:
    """The sizes of images that may have been flattened."""
    return tuple(dict.fromkeys(one.value.shape[1:] for one in ours if one.value.ndim > 2))


def paired(
    ours: Sequence[Ours],
    theirs: Sequence[Given],
    *,
    plan: Plan | None,
    rules: Sequence[str],
    allowed: Allowed,
) -> list[Pair]:
    """Pairs in the order of ours.

    Args:
      ours: without the output of the whole.
      theirs: with it as the last.
      plan: of ``match``, or None.
      rules: as for ``match``.
      allowed: how much two arrays may differ.
    """
    images = images_of(ours)
    found: dict[int, Pair] = {}
    used: set[int] = set()

    def take(i: int, j: int, how: str) -> bool:
        if i in found or j in used:
            return False
        comparison = compare(ours[i].value, theirs[j].value, images, ours[i].mask)
        if comparison is not None and _adds(ours[i]):
            limit = _ROUNDED * allowed(ours[i].value, theirs[j].value)
            comparison = comparison if comparison.relative <= limit else None
        if comparison is not None:
            found[i] = Pair(i, j, how, comparison)
            used.add(j)
        return comparison is not None

    for i, j, how in _named(ours, theirs, rules):
        take(i, j, how)
    for i, candidates in _planned(ours, theirs, plan) if plan else ():
        next((j for j in candidates if take(i, j, "plan")), None)
    _by_values(ours, theirs, allowed, images, found, used)
    for i, j in _in_order(ours, theirs, images, {i: pair.theirs for i, pair in found.items()}):
        take(i, j, "order")
    return [found[i] for i in sorted(found)]


def _calls(names: Sequence[str]) -> dict[str, list[int]]:
    calls: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        calls.setdefault(name, []).append(i)
    return calls


def _named(
    ours: Sequence[Ours], theirs: Sequence[Given], rules: Sequence[str]
) -> Iterator[tuple[int, int, str]]:
    own = _calls([one.activation.path for one in ours])
    given = _calls([one.name for one in theirs])
    values = {one.name: one.value for one in theirs}
    plain, _ = paths_of(values, ())
    after, _ = paths_of(values, rules)
    for path, name in after.items():
        # Of layers that ran several times, call by call, where both ran as often.
        if path in own and len(own[path]) == len(given[name]):
            how = "name" if plain.get(path) == name else "rule"
            yield from ((i, j, how) for i, j in zip(own[path], given[name], strict=True))


def _planned(
    ours: Sequence[Ours], theirs: Sequence[Given], plan: Plan
) -> Iterator[tuple[int, list[int]]]:
    """For activations of ours, those of theirs that the plan allows, the likeliest first."""
    own = _calls([one.activation.path for one in ours])
    given = _calls([one.name.replace(".", "/") for one in theirs])
    by_prefix: dict[str, list[str]] = {}
    for target, fit, _ in plan._pairs:
        by_prefix.setdefault(fit.prefix, []).append(target.place.path)
    for prefix, paths in by_prefix.items():
        name = _called(prefix, by_prefix, given)
        if name is None:
            continue
        # Several layers here may be one there: an LSTM of several layers or directions.
        whole = _common(paths)
        for path in filter(None, dict.fromkeys((whole, *_and_above(paths[-1])))):
            if len(own.get(path, ())) == len(given[name]):
                for i, j in zip(own[path], given[name], strict=True):
                    yield i, [j]
            if any(_adds(ours[i]) for i in own.get(path, ())):
                break
    # In a graph of operators a layer is the last of those that take its arrays.
    for pair in plan.matched:
        takers = [j for j, one in enumerate(theirs) if not one.arrays.isdisjoint(pair.names)]
        if takers and len(own.get(pair.path, ())) == 1:
            yield own[pair.path][0], takers[::-1]


def _called(prefix: str, prefixes: Collection[str], names: Collection[str]) -> str | None:
    """What ran with the arrays below a prefix: of that name, or of what encloses these alone."""
    for name in _and_above(prefix):
        if name != prefix and any(o != prefix and _below(o, name) for o in prefixes):
            return None
        for head, tail in _heads(name):
            # A model's own name is in front of all its arrays, and not of its layers.
            if tail in names and all(_below(other, head) for other in prefixes):
                return tail
        longer = [other for other in names if other.endswith(f"/{name}")]
        if len(longer) == 1:
            return longer[0]
    return None


def _heads(name: str) -> Iterator[tuple[str, str]]:
    parts = name.split("/")
    for i in range(len(parts)):
        yield "/".join(parts[:i]), "/".join(parts[i:])


def _below(name: str, head: str) -> bool:
    return not head or name == head or name.startswith(f"{head}/")


def _common(paths: Sequence[str]) -> str:
    steps = zip(*(path.split("/") for path in paths), strict=False)
    return "/".join(step[0] for step in itertools.takewhile(lambda s: len(set(s)) == 1, steps))


def _and_above(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition("/")[0]


def _by_values(
    ours: Sequence[Ours],
    theirs: Sequence[Given],
    allowed: Allowed,
    images: tuple[Shape, ...],
    found: dict[int, Pair],
    used: set[int],
) -> None:
    """Pairs what is equal. What several layers gave, such as a block and its last layer, is told
    apart by their kinds, and then by their order; where one library has more of them, several
    layers have one counterpart.
    """
    prints = np.array([fingerprint(one.value) for one in theirs]).reshape(-1, 4)
    for i, one in enumerate(ours):
        if i in found or one.value.size < _ENOUGH or one.mask is not None:
            continue
        own = np.array(fingerprint(one.value))
        if not np.all(np.isfinite(own)) or own[0] == own[1]:
            continue
        limits = _ROUNDED * np.array([allowed(one.value, other.value) for other in theirs])
        near = np.abs(prints - own).max(axis=1, initial=0) <= 2 * limits * np.abs(own).max()
        equal = []
        for j in map(int, np.flatnonzero(near)):
            comparison = compare(one.value, theirs[j].value, images)
            if comparison is not None and comparison.relative <= limits[j]:
                equal.append((j in used, not _same_kind(one, theirs[j]), j, comparison))
        if equal:
            *_, j, comparison = min(equal, key=lambda candidate: candidate[:3])
            found[i] = Pair(i, j, "equal values", comparison)
            used.add(j)


def _same_kind(one: Ours, other: Given) -> bool:
    layer, kind = one.activation.site.layer, other.kind.lower()
    names = (layer.maker.lower(), layer.kind.replace("_", ""), *_KINDS.get(layer.maker, ()))
    return bool(kind) and any(name in kind for name in names)


def is_leaf(one: Ours) -> bool:
    layer = one.activation.site.layer
    while set(layer.children) == {""} and layer.copies == 1:
        layer = layer.children[""]
    return not layer.children


def _in_order(
    ours: Sequence[Ours],
    theirs: Sequence[Given],
    images: tuple[Shape, ...],
    fixed: Mapping[int, int],
) -> list[tuple[int, int]]:
    """The longest sequence of pairs whose shapes fit, in the order of both, around the fixed ones.

    Pairs of one kind count double, and layers that have none inside them somewhat more than others.
    Fixed pairs that cross others count for nothing.
    """
    back = set(fixed.values())
    best = np.zeros((len(ours) + 1, len(theirs) + 1))
    fits = np.zeros((len(ours), len(theirs)))
    # Once for each pair of shapes: a model has many layers, and few shapes.
    shapes = {one.value.shape for one in ours}, {one.value.shape for one in theirs}
    alike = {(a, b) for a, b in itertools.product(*shapes) if layouts(b, a, images)}
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            if i in fixed or j in back:
                fits[i, j] = len(ours) * 3 if fixed.get(i) == j else 0
            elif (one.value.shape, other.value.shape) in alike:
                fits[i, j] = 1 + _same_kind(one, other) + is_leaf(one) / 2
    for i in range(len(ours)):
        with_pair = best[i, :-1] + np.where(fits[i] > 0, fits[i], -math.inf)
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(with_pair, best[i, 1:]))
    pairs, i, j = [], len(ours), len(theirs)
    while i and j:
        # Of pairs as good, the last ones: what encloses others comes after them.
        if fits[i - 1, j - 1] and best[i, j] == best[i - 1, j - 1] + fits[i - 1, j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i -= 1
    return pairs[::-1]
