"""``match``: which array of a file is which parameter of a model, and why.

How to read this file: a place of the model (``places.py``) and a prefix of names in the file fit
where a layout (``layouts/``) turns the arrays below the prefix into arrays of the right names and
shapes. Places and prefixes that fit are paired by a rule, by equal names, by there being one that
fits, and at last by their order, as long as as many places as prefixes of a kind are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..base.errors import InteropError, public_api
from ..base.layer import Layer
from ..base.paths import join
from ..base.types import Params, PyTree, State
from ..inspection import walk
from .exporting import export_plan
from .formats.base import Arrays
from .formats.graph import GraphArrays
from .formats.hdf5 import natural
from .given import as_numpy, check_arrays, check_targets, views_of
from .graph_weights import GraphWeights
from .keras_groups import by_class, is_numbered
from .layouts import LAYOUTS
from .layouts.base import Layout, Place, has_shapes, renamed, said
from .layouts.transformers import unstacked
from .libraries import library_of
from .loading import Stack, release
from .pairing import Fit, other_direction, paired
from .places import Target, targets_of
from .rules import paths_of
from .ties import tied_names
from .turning import one_side
from .words import told_apart

# Libraries whose arrays are told by their names.
_GRAPHS = ("onnx", "tflite")
_BY_NAMES = [name for name in LAYOUTS if name not in _GRAPHS]
# A .weights.h5 alone, where it is the class of a layer and its number that tell it.
_COUNTED = "keras_weights"
# Counters of the library itself, which nothing here has a place for.
_COUNTERS = ("num_batches_tracked",)
# What read() puts before an optimiser's variables in files of Keras; in checkpoints of torch these
# are below a key for the optimiser, numbered in what its state_dict() calls "state".
_OF_AN_OPTIMIZER = re.compile(
    r"optimizer/|([^./]+[./])*opt(im[^./]*|_[^./]*)?[./](\d+[./])?state[./]\d+[./]"
).match
_SHOWN = 20


class Pairing(NamedTuple):
    """A place of the model and the arrays that go there.

    Attributes:
      path: of the layer; of one of several copies with its number.
      names: of the arrays in the file.
      says: the layout, in words.
      how: ``"name"``, which a rule may have given, ``"the only one that fits"``, ``"order"``, or
        ``"class and number"`` for a ``.weights.h5``.
    """

    path: str
    names: tuple[str, ...]
    says: str
    how: str


class Plan:
    """What goes where. ``print(plan)`` shows it, ``plan.load()`` gives parameters and state.

    Attributes:
      matched: a ``Pairing`` for each place that was found.
      missing: the places without arrays: ``{path: shapes}``.
      extra: names in the file that go nowhere.
      ambiguous: places that several arrays fit equally: ``{path: prefixes}``.
    """

    def __init__(
        self,
        arrays: Arrays,
        library: str,
        pairs: list[tuple[Target, Fit, str]],
        missing: list[Target],
        extra: list[str],
        ambiguous: dict[str, list[str]],
        reasons: Mapping[str, str] | None = None,
    ):
        self._arrays, self._pairs, self._missing = arrays, pairs, missing
        self.library = library
        self.matched = [
            Pairing(
                target.place.path,
                self._in_file(*fit.names.values()),
                said(fit.layout, target.place),
                how,
            )
            for target, fit, how in pairs
        ]
        self._counts: dict[tuple[int, str], tuple[int, ...]] = {}
        for target in [*(target for target, _, _ in pairs), *missing]:
            for collection, path, copy in target.arrays.values():
                most = self._counts.get((collection, path), copy)
                self._counts[collection, path] = tuple(map(max, most, (n + 1 for n in copy)))
        self.missing = {target.place.path: dict(target.place.shapes) for target in missing}
        self._extra, self.extra = extra, [one for name in extra for one in self._in_file(name)]
        self.ambiguous, self._reasons = ambiguous, reasons or {}

    def _in_file(self, *names: str) -> tuple[str, ...]:
        """What the file calls arrays that are known here by what takes them."""
        origin = getattr(self._arrays, "origin", {})
        return tuple(dict.fromkeys(one for name in names for one in origin.get(name, (name,))))

    def __str__(self) -> str:
        lines = [
            f"{len(self.matched)} of {len(self.matched) + len(self.missing)} layers, {self.library}"
        ]
        width = max((len(pair.path) for pair in self.matched), default=0)
        for pair in self.matched:
            names = ", ".join(pair.names)
            lines.append(f"  {pair.path:<{width}} <- {names}  ({pair.says}; by {pair.how})")
        for path, shapes in self.missing.items():
            near = self.ambiguous.get(path)
            rule = f'; rules=["{near[0]} -> {path}"] says which' if near and path else ""
            why = (
                f"as well {' or '.join(near)}{rule}" if near else f"no arrays for {_shapes(shapes)}"
            )
            why = f"{why}: {self._reasons[path]}" if path in self._reasons else why
            lines.append(f"  {path:<{width}} <- ?  ({why})")
        lines += [
            f"  {', '.join(self._in_file(name))}{list(self._arrays[name].shape)} goes nowhere"
            for name in self._extra[:_SHOWN]
        ]
        if len(self._extra) > _SHOWN:
            lines.append(f"  {len(self._extra) - _SHOWN} more arrays go nowhere: plan.extra")
        return "\n".join(lines)

    @property
    def complete(self) -> bool:
        """Whether each place has its arrays, and each array its place."""
        return not self.missing and not self.extra

    @public_api
    def load(self, *, strict: bool = True) -> tuple[Params, State]:
        """The parameters and the state, as JAX arrays of the file's dtypes.

        Without ``jax_enable_x64``, float64 becomes float32, as everywhere in JAX.

        Args:
          strict: whether places without arrays and arrays without a place are errors; otherwise
            what is missing is left out of the trees.

        Raises:
          InteropError: where the plan is not complete.
        """
        if strict and not self.complete:
            raise InteropError(
                f"{len(self.missing)} layers have no arrays and {len(self.extra)} arrays no layer",
                got="\n" + str(self),
                hint='match(..., rules=["theirs -> ours"]), "theirs ->" for what is left out; '
                "load(strict=False) for what fits, as with a new head",
            )
        stacks = {key: Stack(counts) for key, counts in self._counts.items()}
        for target, fit, _ in self._pairs:
            given = {name: as_numpy(full, self._arrays[full]) for name, full in fit.names.items()}
            for name, array in fit.layout.convert(given, target.place).items():
                collection, path, copy = target.arrays[name]
                stacks[collection, path].put(copy, array)
            release(given)
        trees: tuple[Params, State] = ({}, {})
        for (collection, path), stack in stacks.items():
            # Where one copy has no arrays, none of that parameter is loaded.
            if stack.complete:
                *above, name = path.split("/")
                node = trees[collection]
                for step in above:
                    node = node.setdefault(step, {})
                node[name] = stack.value()
        return trees

    @public_api
    def export(
        self, params: Params, state: State | None = None, *, strict: bool = True
    ) -> dict[str, np.ndarray]:
        """The way back: arrays under the names and in the layouts of the file.

        Args:
          params, state: of the model that the plan is for, such as ``load`` gave before training.
          strict: whether a plan that is not complete is an error; otherwise what it does not match
            has the path here for a name, and what goes nowhere is left out.

        Returns:
          NumPy arrays by name, of the dtypes that ours have. Counters of the library are those of
          the file, arrays that shared memory there do so again, and what a rule left out is left
          out.

        Raises:
          InteropError: where the plan is not complete, or these are not parameters of its model.
        """
        if strict and not self.complete:
            raise InteropError(
                "a plan that is not complete cannot be exported",
                got="\n" + str(self),
                hint="strict=False: layers without arrays keep the names that they have here",
            )
        return export_plan(
            self.library,
            self._arrays,
            [(target, fit.layout, fit.names) for target, fit, _ in self._pairs],
            self._missing,
            params,
            state,
        )


@public_api
def match(
    model: Layer,
    x: PyTree,
    arrays: Arrays,
    *,
    rules: Sequence[str] = (),
    library: str | None = None,
) -> Plan:
    """A plan of which array of a file goes to which parameter of a model.

    Names that are equal but for the separators decide first, then what fits only one place, then
    the order in the file, which is the order of definition for most libraries. Whether the model
    then computes what it computed at home is not known before it was run beside it. An array that
    has several names, as tied weights have, is wanted once where the model has one place for it.

    Args:
      model: the layer that the arrays are for.
      x: an input of it, or its spec.
      arrays: of a file (``interop.read``), or any flat mapping of names to arrays, such as a
        ``state_dict``.
      rules: corrections, a line each: ``"theirs -> ours"`` renames a prefix of theirs (``*`` is any
        part between two separators, on both sides), ``"theirs ->"`` leaves out what it matches.
      library: ``"torch"``, ``"keras"``, ``"keras_weights"`` (the names in a ``.weights.h5``),
        ``"flax"``, ``"haiku"``, ``"onnx"`` or ``"tflite"``; None for that of a file that holds a
        graph or numbered variables, otherwise for the one that fits most layers, and of several
        for that of the file's format.

    Returns:
      A ``Plan``; ``plan.load()`` gives ``(params, state)``.

    Raises:
      InteropError: for a rule that matches nothing, or names no layer of the model; for an unknown
        library; for ``arrays`` that are not a mapping, or may be of two libraries that order the
        numbers otherwise.

    >>> import jax, numpy as np, jlayers as jl
    >>> model = jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(2))
    >>> arrays = {"0.weight": np.ones((8, 3)), "0.bias": np.ones(8)}
    >>> arrays |= {"2.weight": np.ones((2, 8)), "2.bias": np.ones(2)}
    >>> plan = jl.interop.match(model, jl.spec((1, 3)), arrays)
    >>> print(plan)
    2 of 2 layers, torch
      dense   <- 0.weight, 0.bias  (torch Linear: transposed; by the only one that fits)
      dense_1 <- 2.weight, 2.bias  (torch Linear: transposed; by the only one that fits)
    >>> params, state = plan.load()
    >>> params["dense"]["kernel"].shape
    (3, 8)
    """
    check_arrays(arrays)
    hint = None
    if library is not None and library not in (*LAYOUTS, _COUNTED):
        raise InteropError(f"no layouts of {library!r}", expected=", ".join((*LAYOUTS, _COUNTED)))
    if isinstance(arrays, GraphArrays) and library in (None, arrays.library):
        library, arrays = arrays.library, GraphWeights(arrays)
    elif library in _GRAPHS:
        raise InteropError(
            f"which operator takes an array is what tells the layers of {library} apart",
            expected=f"the mapping that interop.read gives for a file of {library}",
            got=type(arrays).__name__,
            hint='rules=["theirs ->"] leaves arrays out of it',
        )
    else:
        hint = getattr(arrays, "library", None)
        arrays = unstacked(views_of(arrays))
    targets = targets_of(model, x)
    names, left_out = paths_of(arrays, rules)
    check_targets(rules, [target.place.path for target in targets], arrays.keys())
    if library == _COUNTED or (library is None and is_numbered(arrays)):
        names, counted = by_class(targets, dict(walk(model)), names, arrays)
        return _planned(targets, names, arrays, left_out, _COUNTED, hint, counted)
    plan = _planned(targets, names, arrays, left_out, library, hint)
    if not plan.complete and (ties := tied_names(arrays, names.values())):
        once = {path: name for path, name in names.items() if name not in ties}
        other = _planned(targets, once, arrays, left_out | ties, library, hint)
        return min((plan, other), key=lambda each: len(each.missing) + len(each.extra))
    return plan


def _planned(
    targets: list[Target],
    names: Mapping[str, str],
    arrays: Arrays,
    left_out: set[str],
    library: str | None,
    hint: str | None,
    counted: Mapping[str, str] | None = None,
) -> Plan:
    """The plan for names that were changed by the rules, and those that were counted."""
    found = {
        each: _fits(targets, names, arrays, LAYOUTS[each.removesuffix("_weights")])
        for each in ([library] if library else _BY_NAMES)
    }
    for fits in found.values():
        one_side(fits)
        told_apart([target.place.path for target in targets], fits)
    places = [target.place for target in targets]
    best = library_of(places, found, arrays, hint)
    chosen, ambiguous = paired(places, found[best], in_order_of_use=best in _GRAPHS)
    counted = counted or {}
    pairs = []
    for i, fit, how in chosen:
        group = counted.get(targets[i].place.path)
        pairs.append((targets[i], fit, "class and number" if group == "" else how))
    taken = {name for _, fit, _ in pairs for name in fit.names.values()}
    done = {id(target) for target, _, _ in pairs}
    extra = [
        name
        for name in arrays
        if name not in taken
        and name not in left_out
        and not name.endswith(_COUNTERS)
        and not _OF_AN_OPTIMIZER(name)
    ]
    missing = [target for target in targets if id(target) not in done]
    return Plan(arrays, best, pairs, missing, extra, ambiguous, counted)


def _fits(
    targets: list[Target], names: Mapping[str, str], arrays: Arrays, layouts: Iterable[Layout]
) -> list[list[Fit]]:
    """For each place, what of the file fits it, in the order of the file."""
    ends: dict[str, list[str]] = {}
    for path in names:
        parts = path.split("/")
        for i in range(len(parts)):
            ends.setdefault("/".join(parts[i:]), []).append("/".join(parts[:i]))
    by_maker: dict[str, list[Layout]] = {}
    for layout in layouts:
        for maker in layout.makers:
            by_maker.setdefault(maker, []).append(layout)
    shapes = {path: tuple(arrays[name].shape) for path, name in names.items()}
    above = [*dict.fromkeys(path.rpartition("/")[0] for path in names)]
    # In the order of text, layers/10 is before layers/2, and norm_after before norm_before.
    as_run = {path: path.replace("_before", "_a") for path in names}
    by_number = {p: i for i, p in enumerate(sorted(names, key=lambda p: natural(as_run[p])))}
    in_file = {path: i for i, path in enumerate(names)}
    order = by_number if above == sorted(above) else in_file

    def first(fit: Fit) -> int:
        return min(order[join(fit.prefix, name)] for name in fit.names)

    # Copies of a block ask the same again and again.
    known: dict[object, bool] = {}

    def asked(layout: Layout, theirs: dict[str, tuple[int, ...]], place: Place) -> bool:
        key = (layout.says, layout.needs, *theirs.items(), kind)
        if key not in known:
            known[key] = has_shapes(layout, theirs, place)
        return known[key]

    found = []
    for target in targets:
        place = target.place
        kind = repr((place.maker, place.options, place.shapes, place.flattened))
        names_here = tuple(place.shapes)
        as_it_is = renamed(dict(zip(names_here, names_here, strict=True)))
        same = Layout("the same names", (), names_here, (), as_it_is)
        here = []
        for layout in (*by_maker.get(target.place.maker, ()), same):
            for prefix in ends.get(layout.needs[0], ()):
                given = {
                    name: join(prefix, name)
                    for name in (*layout.needs, *layout.may)
                    if join(prefix, name) in names
                }
                if not given.keys() >= set(layout.needs):
                    continue
                fit = Fit(prefix, layout, {n: names[p] for n, p in given.items()})
                theirs = {name: shapes[path] for name, path in given.items()}
                if asked(layout, theirs, target.place) and not other_direction(target.place, fit):
                    here.append(fit)
        found.append(sorted(here, key=first))
    return found


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
