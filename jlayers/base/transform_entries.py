"""Trees of the same model with or without a transform of weights: what turns one into the other.

How to read this file: ``entries_of_transforms`` asks each transform in a model which entries are
its own; ``transform_hint`` compares them with those in which a tree differs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from .paths import join
from .tracing import Trace, Traceable
from .types import Params, State
from .validation import leaves_by_path

_MERGE = (
    "they are of a model with a transform of weights: apply that model, or what "
    "transforms.merge(that_model, params, state) returns"
)


class Entries(NamedTuple):
    """The entries of one transform in a model, by path.

    Attributes:
      added: to the parameters and the state.
      removed: parameters of the layer inside that it has no more.
      converts: whether ``transforms.quantize_params`` makes them of those of the layer inside.
    """

    added: frozenset[str]
    removed: frozenset[str]
    converts: bool


def entries_of_transforms(model: Traceable, found: Trace, path: str = "") -> Iterator[Entries]:
    """Those of each transform of weights in a model, the outermost first.

    Args:
      found: the pass of ``model``.
      path: of ``model``.
    """
    if model._weights.change is not None:
        inside = found.inside[""]
        own = {*found.own_parameters, *found.own_variables} - {*inside.parameters}
        yield Entries(
            frozenset(join(path, name) for name in own),
            frozenset(join(path, name) for name in found.without),
            model._weights.convert is not None,
        )
    for name, child in model.children.items():
        if name in found.inside:
            yield from entries_of_transforms(child, found.inside[name], join(path, name))


def converted_paths(model: Traceable, found: Trace) -> frozenset[str]:
    """The parameters of which ``transforms.quantize_params`` makes what the model has."""
    entries = entries_of_transforms(model, found)
    return frozenset().union(*(each.removed for each in entries if each.converts))


def transform_hint(
    model: Traceable,
    found: Trace,
    missing: Collection[str],
    extra: Collection[str],
    trees: tuple[Params, State],
) -> str | None:
    """What to do where a tree is that of the same model, with or without a transform of weights.

    Args:
      missing, extra: the paths in which it differs.
      trees: the parameters and the state that were passed.
    """
    own = [
        each
        for each in entries_of_transforms(model, found)
        if not each.added.isdisjoint(missing) or not each.removed.isdisjoint(extra)
    ]
    added = frozenset[str]().union(*(each.added for each in own))
    removed = frozenset[str]().union(*(each.removed for each in own))
    if own and added.issuperset(missing) and removed.issuperset(extra):
        steps = []
        if not all(each.converts for each in own):
            steps.append("jl.transfer(params, old_model, model, x, state=state, key=key)")
        if any(each.converts for each in own):
            steps.append("transforms.quantize_params(model, params, state)")
        return f"they are of a model without the transform: {', then '.join(steps)}"
    # The model does not know the transform, whose entries are beside a weight: kernel, kernel_q.
    weights = [path for path, _ in leaves_by_path(found.params)]
    given = [path for tree in trees for path, _ in leaves_by_path(tree)]
    known = all(any(path.startswith(f"{one}_") for one in weights) for path in extra)
    beside = all(any(path.startswith(f"{one}_") for path in given) for one in missing)
    return _MERGE if known and beside else None
