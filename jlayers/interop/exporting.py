"""``export_state_dict``: parameters and state under another library's names and in its layouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..base.errors import InteropError, public_api
from ..base.layer import Layer
from ..base.paths import flatten, join
from ..base.types import Params, PyTree, State
from ..inspection import walk
from .formats.base import Arrays
from .keras_groups import groups_of
from .layouts import LAYOUTS
from .layouts.base import Layout
from .layouts.inverse import inverted, shapes_of
from .layouts.transformers import Unstacked
from .places import Target, targets_of
from .rules import renamed
from .ties import memory_of

_COLLECTIONS = ("params", "state")
_BY_NAMES = ("torch", "keras", "flax")
_LIBRARIES = (*_BY_NAMES, "keras_weights")


class Piece(NamedTuple):
    """A place, and the arrays that its own become.

    Attributes:
      target: the place.
      layout: of the other library.
      names: of the arrays, by those that the layout has for them.
      shapes: of the arrays, by those that the layout has for them.
    """

    target: Target
    layout: Layout
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


@public_api
def export_state_dict(
    model: Layer,
    x: PyTree,
    params: Params,
    state: State | None = None,
    *,
    library: str = "torch",
    rules: Sequence[str] = (),
    strict: bool = True,
) -> dict[str, np.ndarray]:
    """The parameters and the state as another library names and lays them out.

    The way back from ``interop.match``. The path of a layer here is its name there:
    ``encoder/dense`` has ``encoder.dense.weight`` for torch. Copies of a ``repeat`` have their
    numbers in their names. To write a file that was read under the names that it had, use
    ``plan.export``.

    Args:
      model: the layer that the arrays are of.
      x: an input of it, or its spec.
      params, state: as ``init`` or training gave them.
      library: ``"torch"`` (``Module.load_state_dict``), ``"keras"`` (its names of variables behind
        the path here), ``"keras_weights"`` (names in a ``.weights.h5`` for ``Model.load_weights``:
        class by class in the order of the layers, whatever their names are), or ``"flax"``
        (``params/...`` and ``batch_stats/...``).
      rules: ``"ours -> theirs"`` renames a prefix of the names made so, a line each (``*`` is any
        part between two separators, on both sides); ``"ours ->"`` leaves out what it matches.
      strict: whether a layer that the library has no layout for is an error; otherwise its arrays
        keep the names and shapes that they have here.

    Returns:
      NumPy arrays by name, of the dtypes that ours have. Where there are two biases for one of
      ours, the first has it and the other is zero.

    Raises:
      InteropError: for a layer without a layout, parameters that are not the model's, two arrays
        of one name, a rule that matches nothing, or an unknown library.

    >>> import jax, jlayers as jl
    >>> model = jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(2))
    >>> params, state = model.init(jax.random.key(0), jl.spec((1, 3)))
    >>> arrays = jl.interop.export_state_dict(
    ...     model, jl.spec((1, 3)), params, rules=["dense -> 0", "dense_1 -> 2"]
    ... )
    >>> {name: array.shape for name, array in arrays.items()}
    {'0.weight': (8, 3), '0.bias': (8,), '2.weight': (2, 8), '2.bias': (2,)}
    """
    if library not in _LIBRARIES:
        raise InteropError(f"no layouts of {library!r}", expected=", ".join(_LIBRARIES))
    targets = targets_of(model, x)
    layouts = LAYOUTS[library.removesuffix("_weights")]
    groups = groups_of(targets, dict(walk(model))) if library == "keras_weights" else None
    pieces, unknown = [], []
    for i, target in enumerate(targets):
        found = _layout(target, layouts)
        group = None if groups is None else groups[i]
        if found is None or (groups is not None and group is None):
            unknown.append(target)
            continue
        layout, shapes = found
        below = group.variables(list(shapes)) if group else {name: name for name in shapes}
        prefix = group.path if group else target.place.path
        paths = {name: join(prefix, path) for name, path in below.items()}
        if library == "flax":
            paths = _in_collections(target, layout, shapes, paths)
        pieces.append(Piece(target, layout, paths, shapes))
    if strict and unknown:
        raise InteropError(
            f"{library} has no layout of {len(unknown)} layers",
            got="\n" + "\n".join(f"  {_described(target)}" for target in unknown),
            hint="strict=False: these keep the names and shapes that they have here",
        )
    exported = export_pieces(pieces, unknown, params, state)
    named, _ = renamed({path: path for path in exported}, rules)
    separator = "." if library == "torch" else "/"
    arrays: dict[str, np.ndarray] = {}
    for path, new in named.items():
        name = new.replace("/", separator)
        if name in arrays:
            raise InteropError(f"two arrays would have the name {name!r}", got=path)
        arrays[name] = exported[path]
    return arrays


def export_pieces(
    pieces: Iterable[Piece],
    unknown: Iterable[Target],
    params: Params,
    state: State | None,
    kept: Arrays | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of all pieces by name, and those without a layout by their paths here.

    Args:
      kept: where to find arrays that nothing of ours goes to, such as counters of the library;
        otherwise they are zero.
    """
    trees = _Trees(params, state)
    exported: dict[str, np.ndarray] = {}
    for target, layout, names, shapes in pieces:
        ours = {name: trees.take(target, name) for name in target.arrays}
        try:
            made = inverted(layout, target.place, ours, shapes)
        except (ValueError, IndexError, TypeError) as error:
            raise InteropError(
                f"{_described(target)} cannot be written as {layout.says!r}", got=str(error)
            ) from None
        for name, path in names.items():
            if name in made:
                exported[path] = made[name]
            elif kept is not None:
                exported[path] = np.asarray(kept[path])
            else:
                exported[path] = np.zeros(shapes[name], np.int64)
    for target in unknown:
        for name in target.arrays:
            exported[join(target.place.path, name)] = trees.take(target, name)
    trees.check_all_taken()
    return exported


def export_plan(
    library: str,
    arrays: Arrays,
    pairs: Iterable[tuple[Target, Layout, Mapping[str, str]]],
    missing: Iterable[Target],
    params: Params,
    state: State | None,
) -> dict[str, np.ndarray]:
    """The arrays of a plan's model under the names and in the layouts of its file.

    Args:
      arrays: of the file.
      pairs: the places, their layouts, and the names in the file by those that the layout has.
    """
    if library not in _LIBRARIES:
        raise InteropError(
            f"arrays of {library} are only read",
            expected=", ".join(_LIBRARIES),
        )
    pieces = [
        Piece(target, layout, names, {n: tuple(arrays[full].shape) for n, full in names.items()})
        for target, layout, names in pairs
    ]
    exported = export_pieces(pieces, missing, params, state, arrays)
    memory = {memory_of(arrays, name): name for name in exported if name in arrays}
    for name in arrays:
        if name not in exported and (other := memory.get(memory_of(arrays, name))):
            exported[name] = exported[other]
    return arrays.put_together(exported) if isinstance(arrays, Unstacked) else exported


class _Trees:
    """The arrays of params and state by their paths, each to be taken."""

    def __init__(self, params: Params, state: State | None):
        self._arrays = [flatten(tree) for tree in (params, {} if state is None else state)]
        self._taken: dict[tuple[int, str], Any] = {}

    def take(self, target: Target, name: str) -> np.ndarray:
        """An array of a place, that of its copy."""
        collection, path, copy = target.arrays[name]
        where = f"{_COLLECTIONS[collection]} must have {path!r}"
        if path not in self._arrays[collection]:
            raise InteropError(
                f"{where}, which the model has there",
                got=", ".join(self._arrays[collection]) or "an empty tree",
            )
        if (collection, path) not in self._taken:
            self._taken[collection, path] = np.asarray(self._arrays[collection][path])
        stacked = self._taken[collection, path]
        shape = target.place.shapes[name]
        if stacked.ndim != len(copy) + len(shape) or stacked.shape[len(copy) :] != shape:
            raise InteropError(
                f"{where} in the shape that the model has",
                expected=f"{list(shape)}" + (" behind the axes of copies" if copy else ""),
                got=f"{list(stacked.shape)}",
            )
        # With the ellipsis, an array even where it has no axes left.
        array: np.ndarray = stacked[(*copy, ...)]
        return array

    def check_all_taken(self) -> None:
        """Raises where there are arrays that the model does not have."""
        left = [
            f"{_COLLECTIONS[i]}: {path}"
            for i, arrays in enumerate(self._arrays)
            for path in arrays
            if (i, path) not in self._taken
        ]
        if left:
            raise InteropError(f"{len(left)} arrays are not of this model", got=", ".join(left[:8]))


def _layout(
    target: Target, layouts: Iterable[Layout]
) -> tuple[Layout, dict[str, tuple[int, ...]]] | None:
    """The first layout for a place: they are in the order of how usual they are."""
    for layout in layouts:
        if target.place.maker in layout.makers:
            shapes = shapes_of(layout, target.place)
            if shapes is not None:
                return layout, shapes
    return None


def _in_collections(
    target: Target,
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    paths: Mapping[str, str],
) -> dict[str, str]:
    """Under the collection of Flax in which ours are."""
    if len({collection for collection, _, _ in target.arrays.values()}) == 1:
        kind = "batch_stats/" if next(iter(target.arrays.values()))[0] else "params/"
        return {name: kind + path for name, path in paths.items()}
    found = {}
    for name, path in paths.items():
        probe = {n: np.broadcast_to(np.int8(n == name), s) for n, s in shapes.items()}
        ours = layout.convert(probe, target.place)
        kinds = {target.arrays[our][0] for our, array in ours.items() if array.any()}
        found[name] = ("batch_stats/" if kinds == {1} else "params/") + path
    return found


def _described(target: Target) -> str:
    place = target.place
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in place.shapes.items())
    return f"{place.path or 'the model'} ({place.maker or 'a layer of your own'}: {shapes})"
