"""What a layer says about weights that are not arrays yet, and how a transform makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .types import Params, State

# ``(params, state, train) -> (params, state, own state)``: what the layer inside gets, and the
# wrapper's entries of the next state.
Change = Callable[[Params, State, bool], tuple[Params, State, State]]

# ``(params, state, copies) -> (params, state)``: the trees of the layer inside as the wrapper's;
# ``copies(path)`` is how many axes of copies a parameter has.
Convert = Callable[[Params, State, Callable[[str], int]], tuple[Params, State]]


class WeightUse(NamedTuple):
    """What a layer does with weights that are not arrays yet.

    Attributes:
      takes: its own parameters that it takes as lazy weights.
      guarded: whether it makes arrays of all others itself.
      change: of a transform of weights, how it makes them.
      convert: of a transform whose own arrays follow from those of the layer inside, how.
      stacked: whether the parameters of the layer inside have an axis of copies.
    """

    takes: tuple[str, ...] = ()
    guarded: bool = False
    change: Change | None = None
    convert: Convert | None = None
    stacked: bool = False
