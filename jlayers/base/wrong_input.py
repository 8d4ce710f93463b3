"""Where parameters and input do not fit: is the input at fault?

A model that is applied to 9 features with parameters made for 8 differs from them in its
parameters, and yet the input is what is wrong. It is blamed where there is a proof: an input that
differs in the size of one axis alone, for which the parameters are right.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax

from .arrays import native_tree
from .errors import LayerError, error_context
from .specs import format_spec, input_specs, leaf_matches, specs_of, specs_of_key, tree_matches
from .tracing import Traceable, trace
from .transform_entries import transform_hint
from .types import Params, PyTree, Spec, State
from .validation import check_tree, check_tree_matches, leaves_by_path

# Each trial is an abstract pass of one layer, in a call that fails anyway.
_MOST_TRIALS = 16


def refuse_trees(model: Traceable, params: Params, state: State, x: PyTree) -> None:
    """Raises for ``params`` or ``state`` that do not fit the model and its input, if they do not.

    Raises:
      LayerError: for the input of one layer where it is at fault; else with all differences.
    """
    found = trace(model, x)

    def explain(missing: list[str], extra: list[str]) -> str | None:
        return transform_hint(model, found, missing, extra, (params, state))

    try:
        check_tree_matches(params, found.params, "params", x, beside=state, explain=explain)
    except LayerError:
        error = _input_error(model, params, specs_of(x))
        if error is None:
            raise
        raise error from None
    check_tree_matches(state, found.state, "state", x, explain=explain)


def checked_trees(
    model: Traceable, params: Params, state: State, x: PyTree
) -> tuple[Params, State]:
    """``params`` and ``state`` in a form that JAX takes, where something else than ``apply`` runs.

    Raises:
      LayerError: as ``apply`` does, in the name of the model.
    """
    with error_context(model):
        params, state = native_tree(params, "params"), native_tree(state, "state")
        check_tree(params, "params")
        check_tree(state, "state")
        refuse_trees(model, params, state, input_specs(x))
    return params, state


def refuse_other_trees(model: Traceable, params: Params, state: State) -> None:
    """Raises for trees that fit none of the inputs with which the model was traced, if it was.

    Where there is no input to say what the model needs, those of ``init`` and ``apply`` do.
    """
    seen = list(model._traces.items())
    params, state = native_tree(params, "params"), native_tree(state, "state")
    if not seen or any(
        tree_matches(params, found.params) and tree_matches(state, found.state) for _, found in seen
    ):
        return
    key, found = seen[0]
    x = specs_of_key(key)
    check_tree_matches(params, found.params, "params", x, beside=state)
    check_tree_matches(state, found.state, "state", x)


class _Misfit(NamedTuple):
    """The first layer, in the order of the children, whose parameters do not fit its input."""

    layer: Traceable
    params: Params
    x: PyTree
    path: tuple[str, ...]
    before: tuple[tuple[str, str, str], ...]


def _input_error(model: Traceable, params: Params, x: PyTree) -> LayerError | None:
    """The error that blames the input of one layer, or None where the parameters are at fault."""
    found = _first_misfit(_Misfit(model, params, x, (), ()))
    expected = trace(found.layer, found.x).params
    for leaf, axis, size in _trials(found.params, expected, found.x):
        wanted = _resized(found.x, leaf, axis, size)
        if not _fits(found.layer, found.params, wanted):
            continue
        # The other layers must fit as they are, or for such an input of the model.
        if _alone(found.path, model, params, x) or (found.x == x and _fits(model, params, wanted)):
            return _error(found, wanted, leaf, axis, size)
    return None


def _first_misfit(parent: _Misfit) -> _Misfit:
    found = trace(parent.layer, parent.x)
    if found.copies is not None:  # their parameters are stacked, and fit no child
        return parent
    before = parent.before
    for name, child in parent.layer.children.items():
        if name not in found.inside:
            continue
        x, inside = found.inputs[name][0], found.inside[name]
        params = parent.params.get(name) if name else parent.params
        path = (*parent.path, name) if name else parent.path
        if isinstance(params, dict) and not tree_matches(params, inside.params):
            return _first_misfit(_Misfit(child, params, x, path, before))
        before = (*before, ("/".join(path), format_spec(x), format_spec(inside.out)))
    return parent


def _trials(params: Params, expected: Params, x: PyTree) -> Iterator[tuple[int, int, int]]:
    """(leaf of ``x``, axis, another size) that may explain how ``params`` differ."""
    have, want = dict(leaves_by_path(params)), dict(leaves_by_path(expected))
    if have.keys() != want.keys():
        return
    changes = {
        (old, new)
        for path, spec in want.items()
        if len(getattr(have[path], "shape", ())) == len(spec.shape)
        for old, new in zip(spec.shape, have[path].shape, strict=True)
        if old != new and old
    }
    tried = 0
    for leaf, spec in enumerate(jax.tree.leaves(x)):
        for axis in range(len(spec.shape) - 1, 0, -1):  # features first, and never the batch
            # Sorted, so that the same mistake has the same text in every process.
            for old, new in sorted(changes):
                # A parameter's size may be a multiple or a share of the input's. Symbolic sizes of
                # an export are left alone.
                size = spec.shape[axis]
                if isinstance(size, int) and size * new % old == 0 and tried < _MOST_TRIALS:
                    tried += 1
                    yield leaf, axis, size * new // old


def _resized(x: PyTree, leaf: int, axis: int, size: int) -> PyTree:
    leaves, treedef = jax.tree.flatten(x)
    shape = list(leaves[leaf].shape)
    shape[axis] = size
    leaves[leaf] = Spec(tuple(shape), leaves[leaf].dtype)
    return jax.tree.unflatten(treedef, leaves)


def _fits(layer: Traceable, params: Params, x: PyTree) -> bool:
    try:
        return tree_matches(params, trace(layer, x).params)
    except Exception:  # an input that the layer refuses explains nothing
        return False


def _alone(path: tuple[str, ...], model: Traceable, params: Params, x: PyTree) -> bool:
    """Whether all parameters that do not fit are those of the layer at ``path``."""
    have = dict(leaves_by_path(params))
    return all(
        path == tuple(name.split("/")[: len(path)])
        or (name in have and leaf_matches(have[name], spec))
        for name, spec in leaves_by_path(trace(model, x).params)
    )


def _error(found: _Misfit, wanted: PyTree, leaf: int, axis: int, size: int) -> LayerError:
    spec = jax.tree.leaves(found.x)[leaf]
    last = axis == len(spec.shape) - 1
    what = f"{spec.shape[axis]} features" if last else f"size {spec.shape[axis]} on axis {axis}"
    error = LayerError(
        f"its input has {what}, and its parameters were made for {size}",
        expected=format_spec(wanted),
        got=format_spec(found.x),
    )
    error.attribute_to(found.layer.maker, found.layer.short(), found.layer.site)
    error.path, error.before = found.path, found.before
    return error
