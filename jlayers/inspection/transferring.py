"""transfer: the parameters and the state of one model, as far as they fit, for another one.

How to read this file: ``_sources`` says where each array of the new model comes from, ``_moved``
moves one tree by it, and ``transfer`` moves both and initialises the rest.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, error_context, public_api
from ..base.initialization import draw_some
from ..base.layer import Layer
from ..base.parameters import MadeFrom, ParamSpec
from ..base.paths import check_each_fits, flatten, matches, unflatten
from ..base.specs import format_short
from ..base.tracing import trace
from ..base.transform_entries import converted_paths
from ..base.types import Key, Params, PyTree, Spec, State
from ..base.validation import check_tree, check_tree_matches
from .model_diff import Difference, diff
from .renaming import Rename
from .stacking import stacked_from, unstacked_from
from .transfer_report import TransferReport, TransferRow

_MODES = ("pad", "slice")
# Of a model that is another one altogether, more lines would not be read.
_SHOWN = 20
_COMPARED = 200
_MORE = "transfer(..., key=jax.random.key(0)); rename= or partial= to move more"
_CONVERT = "transforms.quantize_params(new_model, params, state): quantised weights are not moved"
Partial = str | Mapping[str, str] | None


class Transfer(NamedTuple):
    """The trees of the new model, and what was moved into them."""

    params: Params
    state: State
    report: TransferReport


@public_api
def transfer(
    params: Params,
    old_model: LayerOrFunction,
    new_model: LayerOrFunction,
    x: PyTree,
    *,
    state: State | None = None,
    key: Key = None,
    old_x: PyTree = None,
    rename: Mapping[str, str] | None = None,
    partial: Partial = None,
    strict: bool = False,
) -> Transfer:
    """The parameters of one model for another one: what fits is moved, the rest is initialised.

    An array fits where it has the same path and shape; its dtype is kept. The copies of a
    ``repeat`` are taken apart for a ``serial`` of as many layers, and put together the other way
    round; of nested ones, those of one. What a transform computes of a weight, as ``dora`` and
    ``weight_norm`` its lengths, is computed of the one that moved. The report says what became of
    each array.

    Args:
      params: of the old model.
      old_model, new_model: models.
      x: an input of the new model, or its specs.
      state: of the old model. Needed if both models have state; ``{}`` for new statistics.
      key: for the arrays that are initialised; they have the values of ``new_model.init(key, x)``.
      old_x: an input of the old model, where it is another one.
      rename: what old paths become, ``{"encoder/**": "backbone/**"}``; the first pattern that fits
        a path counts.
      partial: for arrays of another shape: ``"pad"`` for old values in the first places of an array
        that is larger, ``"slice"`` for the first places of one that is smaller. Or one of the two
        by path, ``{"head/*": "pad"}``.
      strict: whether anything that is new, left over, or of another shape is an error.

    Returns:
      ``(params, state, report)``; ``print(report)`` has a line for each array that did not simply
      move.

    Raises:
      LayerError: for ``params`` or ``state`` that are not those of the old model, patterns that fit
        nothing, two old arrays for one new path, a key that is missing, and by ``strict``.

    >>> import jax, jlayers as jl
    >>> old = jl.serial(jl.Dense(8), head=jl.Dense(10))
    >>> params, _ = old.init(jax.random.key(0), jl.spec((1, 4)))
    >>> new = old.replace(head=jl.Dense(3))
    >>> x, key = jl.spec((1, 4)), jax.random.key(1)
    >>> params, state, report = jl.transfer(params, old, new, x, key=key)
    >>> print(report)
    2 moved, 2 changed
      changed    head/kernel  float32[8, 10] -> float32[8, 3], new values
      changed    head/bias    float32[10] -> float32[3], new values
    """
    old, new = lift(old_model), lift(new_model)
    if key is not None:
        arguments.typed_key(key)
    strict = arguments.flag("strict", strict)
    old_found, new_found = trace(old, x if old_x is None else old_x), trace(new, x)
    with error_context(old):
        check_tree_matches(params, old_found.params, "params", x if old_x is None else old_x)
        if state is None and old_found.state and new_found.state:
            raise LayerError(
                "the old model has state, and none is given",
                expected=f"state with {_some(old_found.variables)}",
                hint="transfer(..., state=state); state={} for the new model's initial one",
            )
        if state is not None:
            check_tree(state, "state")
        if state:
            check_tree_matches(state, old_found.state, "state", x if old_x is None else old_x)
    renamed = Rename(rename)
    renamed.check([*old_found.parameters, *old_found.variables])
    modes = _modes(partial, [*new_found.parameters, *new_found.variables])
    given = (
        (params, old_found.parameters, new_found.parameters, False),
        (state or {}, old_found.variables if state else {}, new_found.variables, True),
    )
    trees = [
        _Tree(flatten(tree), before, after, _sources(old, new, before, after, renamed), in_state)
        for tree, before, after, in_state in given
    ]
    converts = not converted_paths(new, new_found).isdisjoint(old_found.parameters)
    fresh = _fresh(trees, modes, key, _CONVERT if converts else _MORE)
    done = [_moved(tree, modes, own) for tree, own in zip(trees, fresh, strict=True)]
    rows = tuple(row for _, rows in done for row in rows)
    hint = _CONVERT if converts else _rename_that_fits(rows)
    report = TransferReport(rows, hint, tuple(_other_meaning(old, new, rows)))
    if strict and not report.complete:
        lines = report.lines(hint=False)
        if len(lines) > _SHOWN:
            lines = [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more"]
        raise LayerError(
            f"the old model's arrays are not those of the new one: {report.summary()}",
            got="".join(f"\n    {line}" for line in lines),
            hint=report.hint or "strict=False to initialise what is new",
        )
    made = functools.partial(_with_made, trees, done)
    return Transfer(made(0), made(1), report)


class _Source(NamedTuple):
    """Where an array comes from: old paths, stacked along an axis, or a place along it in one."""

    paths: tuple[str, ...]
    axis: int = 0
    at: int | None = None

    def array(self, old: Mapping[str, Any]) -> Any:
        if self.at is not None:
            return jnp.take(jnp.asarray(old[self.paths[0]]), self.at, self.axis)
        if len(self.paths) > 1:
            return jnp.stack([jnp.asarray(old[path]) for path in self.paths], self.axis)
        return old[self.paths[0]]

    def shape(self, old: Mapping[str, ParamSpec]) -> tuple[int, ...]:
        shape = list(old[self.paths[0]].shape)
        if self.at is not None:
            del shape[self.axis : self.axis + 1]
        elif len(self.paths) > 1:
            shape.insert(self.axis, len(self.paths))
        return tuple(shape)


class _Tree(NamedTuple):
    """One of the two trees: the old arrays, both tables, and where new arrays come from."""

    arrays: Mapping[str, Any]
    before: Mapping[str, ParamSpec]
    after: Mapping[str, ParamSpec]
    sources: Mapping[str, _Source]
    in_state: bool

    def spec_of(self, source: _Source) -> Spec:
        return Spec(source.shape(self.before), self.arrays[source.paths[0]].dtype)


def _sources(
    old: Layer,
    new: Layer,
    before: Mapping[str, ParamSpec],
    after: Mapping[str, ParamSpec],
    rename: Rename,
) -> dict[str, _Source]:
    """Where each array of the new model comes from, by its path; without those that are new."""
    paths: dict[str, str] = {}
    for path in before:
        target = rename(path)
        if target in paths:
            raise LayerError(
                f"two old arrays become {target!r}",
                got=f"{paths[target]} and {path}",
                hint="rename= with other paths",
            )
        paths[target] = path
    found = {path: _Source((paths[path],)) for path in after if path in paths}

    def fit(sources: Mapping[str, _Source], group: Iterable[str]) -> bool:
        return all(
            path in sources and sources[path].shape(before) == after[path].shape for path in group
        )

    stacks = [
        {path: _Source(tuple(paths[part] for part in parts), axis) for path, (parts, axis) in one}
        for one in (group.items() for group in stacked_from(new, after, paths))
    ] + [
        {path: _Source((part.path,), part.axis, part.at) for path, part in group.items()}
        for group in unstacked_from(old, before, rename, after)
    ]
    for group in stacks:
        # A path may be in both models and mean another layer: all copies fit together or none.
        if fit(group, group) and not fit(found, group):
            found |= group
        else:
            found = group | found
    return found


def _modes(partial: Partial, paths: list[str]) -> dict[str, str]:
    """``"pad"`` or ``"slice"`` by path, for those to which one of them may be done."""
    given = {"**": partial} if isinstance(partial, str) else partial
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(mode in _MODES for mode in given.values()):
        raise LayerError(
            "partial must be 'pad', 'slice', or one of them by path",
            got=format_short(partial),
            hint='partial={"head/*": "pad"}',
        )
    if not isinstance(partial, str):
        check_each_fits(tuple(given), paths)
    return {
        path: next(mode for pattern, mode in given.items() if matches(path, pattern))
        for path in paths
        if any(matches(path, pattern) for pattern in given)
    }


def _status(old: Spec | None, new: ParamSpec, mode: str | None) -> str:
    if old is None:
        return "new"
    if _same_kind(old.dtype, new.dtype):
        if old.shape == new.shape:
            return "moved"
        pairs = list(zip(old.shape, new.shape, strict=False))
        if len(old.shape) == len(new.shape):
            if mode == "pad" and all(a <= b for a, b in pairs):
                return "padded"
            if mode == "slice" and all(a >= b for a, b in pairs):
                return "sliced"
    return "changed"


def _same_kind(old: Any, new: Any) -> bool:
    """Whether values may be of the other dtype: a float may be any float, as for ``apply``."""
    for kind in (jnp.floating, jnp.complexfloating):
        if jnp.issubdtype(new, kind):
            return bool(jnp.issubdtype(old, kind))
    return bool(old == new)


def _fresh(
    trees: list[_Tree], modes: Mapping[str, str], key: Key, hint: str
) -> list[dict[str, jax.Array]]:
    """The arrays of both trees that are initialised, at least in part."""
    needed = []
    for tree in trees:
        own = {}
        for path, spec in tree.after.items():
            source = tree.sources.get(path)
            old = None if source is None else tree.spec_of(source)
            if _status(old, spec, modes.get(path)) in ("new", "changed", "padded"):
                own[path] = spec
        needed.append(own)
    paths = [*needed[0], *needed[1]]
    if not paths:
        return [{}, {}]
    if key is None:
        raise LayerError(
            f"a key is needed: {len(paths)} arrays of the new model are initialised",
            got=", ".join(paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else ""),
            hint=hint,
        )
    return [draw_some(own, key) for own in needed]


def _moved(
    tree: _Tree, modes: Mapping[str, str], fresh: Mapping[str, jax.Array]
) -> tuple[Params, list[TransferRow]]:
    arrays: dict[str, Any] = {}
    rows = []
    for path, wanted in tree.after.items():
        source = tree.sources.get(path)
        spec = None if source is None else tree.spec_of(source)
        status = _status(spec, wanted, modes.get(path))
        leaf: Any = None
        if source is not None and status not in ("new", "changed"):
            leaf = source.array(tree.arrays)
        if status == "padded":
            here = tuple(slice(size) for size in jnp.shape(leaf))
            leaf = fresh[path].astype(leaf.dtype).at[here].set(leaf)
        elif status == "sliced":
            leaf = leaf[tuple(slice(size) for size in wanted.shape)]
        arrays[path] = fresh[path] if leaf is None else leaf
        paths = () if source is None else source.paths
        old = _spec_of(tree.arrays[paths[0]]) if paths else None
        new = Spec(wanted.shape, arrays[path].dtype)
        rows.append(TransferRow(status, path, paths, old, new, tree.in_state))
    # What has another shape is in the table already, under the new path.
    known = {path for row in rows for path in row.sources}
    for path in tree.before:
        if path not in known:
            old = _spec_of(tree.arrays[path])
            rows.append(TransferRow("left over", path, (path,), old, None, tree.in_state))
    return unflatten(arrays), rows


def _with_made(
    trees: list[_Tree], done: list[tuple[Params, list[TransferRow]]], which: int
) -> Params:
    """A tree in which what is new and computed of a weight is so of the weight that was moved."""
    params, rows = done[0]
    moved = {row.path for row in rows if row.status not in ("new", "changed")}
    by_key = {
        spec.key_path: path
        for path, spec in trees[0].after.items()
        if path in moved and not isinstance(spec.initializer, MadeFrom)
    }
    weights, arrays = flatten(params), flatten(done[which][0])
    for row in done[which][1]:
        spec = trees[which].after.get(row.path)
        how = None if spec is None or row.status != "new" else spec.initializer
        if spec is None or not isinstance(how, MadeFrom) or spec.key_path not in by_key:
            continue
        function = how.function
        for _ in spec.copies:
            function = jax.vmap(function)
        arrays[row.path] = function(jnp.asarray(weights[by_key[spec.key_path]])).astype(spec.dtype)
    return unflatten(arrays)


def _some(paths: Iterable[str], most: int = 4) -> str:
    first, rest = [*paths][:most], max(0, len([*paths]) - most)
    return ", ".join(first) + (f", and {rest} more" if rest else "")


def _spec_of(leaf: Any) -> Spec:
    return Spec(jnp.shape(leaf), leaf.dtype)


def _rename_that_fits(rows: tuple[TransferRow, ...]) -> str | None:
    """A rule by which the most arrays that are left over would become new ones of their shape."""
    found: Counter[tuple[str, str]] = Counter()
    # Some hundreds tell as much as all: a rule is for a whole part of the model.
    sides = [
        [(row, row.path.split("/")) for row in rows if row.status == status][:_COMPARED]
        for status in ("left over", "new")
    ]
    for (old, theirs), (new, ours) in itertools.product(*sides):
        if new.new is None or old.old is None or new.new.shape != old.old.shape:
            continue
        same = 0
        while same < min(len(ours), len(theirs)) and ours[-1 - same] == theirs[-1 - same]:
            same += 1
        if same and new.in_state == old.in_state:
            found["/".join(theirs[:-same]), "/".join(ours[:-same])] += 1
    if not found:
        return None
    places, _ = found.most_common(1)[0]
    old_rule, new_rule = (f"{place}/**" if place else "**" for place in places)
    return f"rename={{{old_rule!r}: {new_rule!r}}}"


def _other_meaning(old: Layer, new: Layer, rows: Iterable[TransferRow]) -> Iterator[Difference]:
    """What differs in the layers of arrays that moved as they were."""
    moved = [row.path for row in rows if row.is_plain]
    for one in diff(old, new):
        both = one.a is not None and one.b is not None
        # Another initialiser made other values, which are those of the old model now.
        if both and one.what != "order" and not one.what.endswith("_init"):
            inside = f"{one.path}/" if one.path else ""
            if any(path.startswith(inside) for path in moved):
                yield one
