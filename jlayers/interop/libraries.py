"""Which library arrays are of, where their names do not come with a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..base.errors import InteropError
from ..base.paths import join
from .formats.base import Arrays
from .layouts.base import Place, Renamed
from .pairing import Fit

Fits = Sequence[Sequence[Fit]]


def library_of(
    places: Sequence[Place], found: Mapping[str, Fits], arrays: Arrays, hint: str | None
) -> str:
    """The library whose layouts fit most places, or that of the file among several.

    Arrays may have the names and shapes that layers have here, and yet another order: the gates of
    a GRU of Keras, the kernel of a transposed convolution. Where nothing else says whose they are,
    a guess could be wrong without an error.

    Args:
      places: of the model.
      found: what fits each place, for each library.
      arrays: by name.
      hint: the library that writes such files, or None.

    Raises:
      InteropError: where several libraries fit as many places and order the numbers otherwise.
    """
    most = max(sum(map(bool, fits)) for fits in found.values())
    tied = [each for each, fits in found.items() if sum(map(bool, fits)) == most]
    if hint in tied:
        return hint
    if len(tied) == 1 or _named_alike(places, found[tied[0]]):
        return tied[0]
    own = {each: sum(map(_own, found[each])) for each in tied}
    candidates = {each: found[each] for each in tied if own[each] == max(own.values())}
    best = next(iter(candidates))
    as_it_is = [
        [fit for fits in found.values() for fit in fits[i] if not fit.layout.makers]
        for i in range(len(places))
    ]
    if all(map(bool, as_it_is)):
        # It may be as it is here, and then Flax has most likely written it.
        candidates.setdefault(min(tied, key=lambda each: each != "flax"), as_it_is)
    for i, place in enumerate(places):
        for fit in candidates[best][i][:1]:
            for other, fits in candidates.items():
                rival = next((f for f in fits[i] if f.names == fit.names), None)
                if rival is not None and not _same(fit, rival, arrays, place):
                    raise InteropError(
                        f"arrays of these names and shapes may be of {best} or {other}, which "
                        "order the numbers otherwise",
                        expected=f"{fit.layout.says!r} or {rival.layout.says!r} for {place.path!r}",
                        got=", ".join(f"{n}{list(arrays[n].shape)}" for n in fit.names.values()),
                        hint=f"match(..., library={best!r}), or {other!r}",
                    )
    return best


def _own(fits: Sequence[Fit]) -> bool:
    """Whether a layout of the library itself fits."""
    return any(fit.layout.makers for fit in fits)


def _named_alike(places: Sequence[Place], fits: Fits) -> bool:
    """Whether all arrays have the names that they have here, as parameters of jlayers have."""

    # Not by a rule: a rule may give the arrays of any library our names.
    def named(fit: Fit, place: Place) -> bool:
        own = {name: join(place.path, name) for name in fit.names}
        return not fit.layout.makers and dict(fit.names) == own

    return all(
        any(named(fit, place) for fit in here) for place, here in zip(places, fits, strict=True)
    )


def _same(one: Fit, two: Fit, arrays: Arrays, place: Place) -> bool:
    """Whether two layouts give the same."""
    a, b = one.layout.convert, two.layout.convert
    if isinstance(a, Renamed) and isinstance(b, Renamed):
        return all(a.names.get(name) == b.names.get(name) for name in one.names)
    numbers = {}
    for name, full in one.names.items():
        shape = arrays[full].shape
        numbers[name] = np.arange(int(np.prod(shape))).reshape(shape)
    ours, theirs = a(numbers, place), b(numbers, place)
    return all(np.array_equal(array, theirs[name]) for name, array in ours.items())
