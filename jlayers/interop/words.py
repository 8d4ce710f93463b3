"""Places and arrays of equal shapes, told apart by a word that both libraries use.

A shortcut's norm has the shapes of the norm before the sum, and comes before or behind it in the
order of a file; but most people call it a shortcut.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

_SHORTCUT = "shortcut"
# In torchvision and timm, and in networks of many others.
_CALLED_SO = {"downsample", "skip"}
_WORD = re.compile("[a-z]+", re.IGNORECASE)


def told_apart(paths: Sequence[str], fits: Sequence[list[Any]]) -> None:
    """Keeps, of as many prefixes as places that all fit each other, those with the same words.

    A word counts that is in as many of the places' paths as of the prefixes, and not in all.

    Args:
      paths: of the places.
      fits: what fits each place; changed.
    """
    groups: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    for i, here in enumerate(fits):
        groups.setdefault(tuple(tuple(fit.names.values()) for fit in here), []).append(i)
    for names, places in groups.items():
        if 1 < len(places) == len(names):
            _divide([(i, _words(paths[i])) for i in places], fits)


def _divide(places: list[tuple[int, set[str]]], fits: Sequence[list[Any]]) -> None:
    prefixes = [_words(fit.prefix) for fit in fits[places[0][0]]]
    for word in sorted({word for _, own in places for word in own}):
        having = [place for place in places if word in place[1]]
        if len(having) < len(places) and len(having) == _count(word, prefixes):
            without = [place for place in places if word not in place[1]]
            for part, wanted in ((having, True), (without, False)):
                for i, _ in part:
                    fits[i][:] = [f for f in fits[i] if (word in _words(f.prefix)) == wanted]
                _divide(part, fits)
            return


def _count(word: str, prefixes: Iterable[set[str]]) -> int:
    return sum(word in prefix for prefix in prefixes)


def _words(path: str) -> set[str]:
    words = {word.lower() for word in _WORD.findall(path)}
    return words | {_SHORTCUT} if words & _CALLED_SO else words
