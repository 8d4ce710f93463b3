"""Which of several layouts is meant that fit the same arrays, at one place or at two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# The modules of transformers whose kernels are (in, out). Others have such names too, turned.
_AS_IT_IS = re.compile(r"(^|[./])(c_attn|c_fc|c_proj|q_attn)[./]weight$")
_LINEAR, _CONV1D = "torch Linear: transposed", "transformers Conv1D: as it is"


def one_side(fits: Sequence[list[Any]]) -> None:
    """Leaves out of the fits of each place those whose kernels are turned the wrong way."""
    _strictly(fits)
    _without_twins(fits)
    _squares(fits)


def _strictly(fits: Sequence[list[Any]]) -> None:
    """Leaves loose layouts to places and arrays that no other layout fits."""
    taken = {
        name for here in fits for fit in here if not fit.layout.loose for name in fit.names.values()
    }
    for here in fits:
        strict = any(not fit.layout.loose for fit in here)
        here[:] = [
            fit
            for fit in here
            if not fit.layout.loose or (not strict and taken.isdisjoint(fit.names.values()))
        ]


def _without_twins(fits: Sequence[list[Any]]) -> None:
    """Takes kernels for transposed where they fit so, instead of for others as they are.

    Of two layers of a network, (8, 32) and (32, 8), either kernel fits both: one of them as it is.
    That is meant by few files: those whose kernels that fit in one way alone are so, and GPT-2's.
    """
    ways: dict[tuple[str, ...], set[str]] = {}
    for fit in (fit for here in fits for fit in here if fit.layout.says in (_LINEAR, _CONV1D)):
        ways.setdefault(tuple(fit.names.values()), set()).add(fit.layout.says)
    certain = [min(found) for found in ways.values() if len(found) == 1]
    if _CONV1D in certain and _LINEAR not in certain:
        return
    for here in fits:
        transposed = [tuple(fit.names.values()) for fit in here if fit.layout.says == _LINEAR]
        for fit in [*here]:
            names = tuple(fit.names.values())
            elsewhere = _LINEAR in ways.get(names, ()) and names not in transposed
            named = any(_AS_IT_IS.search(name) for name in names)
            if fit.layout.says == _CONV1D and elsewhere and not named:
                here.remove(fit)


def _squares(fits: Sequence[list[Any]]) -> None:
    """Of two layouts that fit the same arrays, keeps the one that others of the file have.

    A square kernel fits as it is and transposed. Where the kernels that are not square have one
    side, so has it; where there are both kinds, it is left open.
    """
    sure = {
        fit.layout.says
        for here in fits
        for fit in here
        if sum(other.names == fit.names for other in here) == 1
    }
    for here in fits:
        for fit in [*here]:
            rivals = [other for other in here if other.names == fit.names and other is not fit]
            says = fit.layout.says
            # The earlier of two layouts is the more usual one.
            earlier = any(here.index(other) < here.index(fit) for other in rivals)
            others = any(other.layout.says in sure for other in rivals)
            if rivals and says not in sure and (others or earlier):
                here.remove(fit)
