"""Parameters that are trained, and those that are frozen by path."""

from __future__ import annotations

from typing import Any

from ..base.errors import TrainingError
from ..base.paths import (
    flatten,
    matches,
    select,
    unflatten,
)
from ..base.specs import Params


def split(params: Params, frozen: tuple[str, ...]) -> tuple[Params, Params]:
    """(trained, frozen): two trees that hold each parameter once.

    Raises:
      TrainingError: for a pattern that fits no path, and where nothing is left to train.

    >>> split({"body": {"kernel": 1}, "head": {"kernel": 2}}, ("body/**",))
    ({'head': {'kernel': 2}}, {'body': {'kernel': 1}})
    """
    if not frozen:
        return params, {}
    select(params, *frozen)
    kept: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for path, leaf in flatten(params).items():
        part = fixed if any(matches(path, pattern) for pattern in frozen) else kept
        part[path] = leaf
    if not kept:
        raise TrainingError(
            "frozen fits every parameter: nothing is left to train",
            got=", ".join(map(repr, frozen)),
        )
    return unflatten(kept), unflatten(fixed)


def merge(trained: Params, frozen: Params) -> Params:
    """The tree of all parameters: the inverse of ``split``."""
    return unflatten(flatten(trained) | flatten(frozen)) if frozen else trained


def patterns(frozen: object) -> tuple[str, ...]:
    """The argument ``frozen``, checked: one pattern or several."""
    given = (frozen,) if isinstance(frozen, str) else frozen
    if not isinstance(given, tuple | list) or not all(isinstance(one, str) for one in given):
        raise TrainingError(
            "frozen holds no patterns",
            expected='paths or patterns: ("encoder/**", "**/bias")',
            got=repr(frozen),
        )
    return tuple(given)
