"""The outputs of two models beside each other: which is which, of several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax

from ..base.errors import InteropError
from ..base.sequence import is_sequence
from ..base.specs import format_spec, specs_of
from ..inspection.taps import Activation
from .activation_layouts import Comparison, Shape, compare
from .activation_pairs import Allowed, Ours, value_and_mask
from .references import Given


def outputs_of(activation: Activation) -> list[Ours]:
    """Each array of a model's output, by keys, fields and places joined by dots.

    Raises:
      InteropError: where there is none.
    """
    found = []
    leaves = jax.tree_util.tree_leaves_with_path(activation.value, is_leaf=is_sequence)
    for place, leaf in leaves:
        name = jax.tree_util.keystr(place, simple=True, separator=".")
        found.append(Ours(name, activation, *value_and_mask(leaf)))
    if not any(one.value.size for one in found):
        raise InteropError(
            "the model's output has no numbers to compare",
            got=format_spec(specs_of(activation.value)) if found else "no arrays",
        )
    return found


def paired_outputs(
    ours: Sequence[Ours], theirs: Sequence[Given], images: tuple[Shape, ...], allowed: Allowed
) -> list[tuple[int, int, Comparison]]:
    """Pairs by name or place; then by equal values; then by order, where shapes fit.

    Raises:
      InteropError: where shapes do not fit.
    """
    fitting = {
        (i, j): found
        for i, one in enumerate(ours)
        for j, other in enumerate(theirs)
        if (found := compare(one.value, other.value, images, one.mask)) is not None
    }

    def equal(i: int, j: int) -> bool:
        return fitting[i, j].relative <= allowed(ours[i].value, theirs[j].value)

    pairs: dict[int, int] = {}

    def take(candidates: Iterator[tuple[int, int]]) -> None:
        for i, j in candidates:
            if i not in pairs and j not in pairs.values():
                pairs[i] = j

    same = [(i, j) for i, j in _all(ours, theirs) if ours[i].path == theirs[j].name]
    # With as many on either side, what has the name of another is compared with it or refused.
    if len(ours) == len(theirs) and (wrong := next((p for p in same if p not in fitting), None)):
        raise _misfit(ours[wrong[0]], [theirs[wrong[1]]])
    take((i, j) for i, j in same if (i, j) in fitting)
    take((i, j) for i, j in fitting if equal(i, j))
    take(iter(fitting))
    left = next((i for i in range(len(ours)) if i not in pairs), None)
    # Theirs may give fewer, such as no carry.
    if left is not None and (not pairs or len(theirs) >= len(ours)):
        raise _misfit(ours[left], [t for j, t in enumerate(theirs) if j not in pairs.values()])
    return [(i, j, fitting[i, j]) for i, j in sorted(pairs.items())]


def _all(ours: Sequence[Ours], theirs: Sequence[Given]) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(len(ours)) for j in range(len(theirs)))


def _misfit(one: Ours, others: Sequence[Given]) -> InteropError:
    name = f" {one.path!r}" if one.path else ""
    shapes = ", ".join(f"{list(t.value.shape)}{t.name and f' ({t.name})'}" for t in others)
    return InteropError(
        f"the output{name} has another shape" if name else "the outputs have other shapes",
        expected=f"{shapes} as the original's",
        got=f"{list(one.value.shape)}",
        hint="change the head here, or wrap the original; to_reference=lambda x: ... turns its "
        "input",
    )


def label(name: str) -> str:
    """How an output is called in a report: ``""`` where it is the only one."""
    return f"(output) {name}" if name else ""
