"""What a layer says about weights that are not arrays yet, and how a transform makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .types import Params, State

# ``(params, state, train) -> (params, state, own state)``: what the layer inside gets, and the
# wrapper's entries of the next state.
Change = Callable[[Params, State, bool], tuple[Params, State, State]]


class WeightUse(NamedTuple):
    """What a layer does with weights that are not arrays yet.

    Attributes:
      takes: its own parameters that it takes as lazy weights.
      guarded: whether it makes arrays of all others itself.
      change: of a transform of weights, how it makes them.
      stacked: whether the parameters of the layer inside have an axis of copies.
    """

    takes: tuple[str, ...] = ()
    guarded: bool = False
    change: Change | None = None
    stacked: bool = False
