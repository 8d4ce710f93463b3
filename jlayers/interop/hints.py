"""What would make the first layer that departs agree, or why nothing could."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..base.layer import Layer
from ..base.sequence import is_sequence
from ..base.types import Params, PyTree, State
from ..inspection.taps import Activation, recorded
from .activation_layouts import compare
from .activation_pairs import Ours, images_of, is_leaf, ours_of
from .hypotheses import Run, explained
from .references import Given
from .references.recorded import INPUT
from .report import Row
from .verified_input import their_input


def of_another_input(
    x: PyTree, recording: Mapping[str, Any] | None, channels_first: bool
) -> str | None:
    """Whether a recording says that it is of another input."""
    if recording is None or INPUT not in recording or len(jax.tree.leaves(x)) != 1:
        return None
    ours, theirs = (
        np.asarray(jax.tree.leaves(their_input(one, turned, None))[0])
        for one, turned in ((x, channels_first), (recording[INPUT], False))
    )
    if ours.shape == theirs.shape and np.allclose(ours, theirs, equal_nan=True):
        return None
    return f"x is not the recorded {INPUT!r}: leave it out"


def of_the_run(
    row: Row, given: Sequence[Given], again: Callable[[], Sequence[Given]]
) -> str | None:
    """What makes every comparison useless: NaN in both, or an original that is random."""
    if math.isnan(row.relative):
        return "NaN in both proves nothing: look at x, and at what makes the first of them"
    for one, other in zip(given, again(), strict=False):
        if not np.array_equal(one.value, other.value, equal_nan=True):
            name = one.name or "its output"
            return f"the original is not the same each time it runs, first at {name!r}"
    return None


def of_a_layer(
    model: Layer,
    given: tuple[Params, State, PyTree],
    ours: Sequence[Ours],
    one: Ours,
    other: Given,
    tolerance: float,
) -> str | None:
    """What would make this layer agree."""
    layer = one.activation.site.layer
    # Of several arrays each hypothesis would be asked about the first.
    if not is_leaf(one) or len(jax.tree.leaves(one.activation.value, is_leaf=is_sequence)) > 1:
        return None
    params, state, x = given
    _, inputs = recorded(model, params, state, x, side="input", path=one.activation.site.path)
    same = (one.activation.path, one.activation.call)
    own = next(each for each in inputs if (each.path, each.call) == same)
    images = images_of(ours)
    run = Run(layer, *_arrays_at(own, params, state), own.value, images)
    others = {
        each.activation.path: _arrays_at(each.activation, params, state)
        for each in ours
        if each.activation.site.layer.maker == layer.maker
        and each.activation.path != one.activation.path
        and is_leaf(each)
    }

    def agrees(y: PyTree) -> bool:
        (changed,) = ours_of([one.activation._replace(value=jax.tree.map(np.asarray, y))])
        found = compare(changed.value, other.value, images, changed.mask)
        return found is not None and found.relative <= tolerance

    return explained(run, others, agrees)


def _arrays_at(activation: Activation, params: Params, state: State) -> tuple[Params, State]:
    """The parameters and the state of one copy of a layer."""

    def below(tree: Mapping[str, Any]) -> dict[str, Any]:
        for step in activation.site.steps:
            if isinstance(step, str):
                tree = tree.get(step, {})
        return {
            name: jax.tree.map(lambda leaf: jnp.asarray(leaf)[activation.copy], entry)
            for name, entry in tree.items()
        }

    return below(params), below(state)
