"""``match``: which array of a file is which parameter of a model, and why.

How to read this file: a place of the model (``places.py``) and a prefix of names in the file fit
where a layout (``layouts/``) turns the arrays below the prefix into arrays of the right names and
shapes. Places and prefixes that fit are paired by a rule, by equal names, by there being one that
fits, and at last by their order, as long as as many places as prefixes of a kind are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..base.errors import InteropError, public_api
from ..base.layer import Layer
from ..base.types import Params, PyTree, State
from .exporting import export_plan
from .formats.base import Arrays
from .layouts import LAYOUTS
from .layouts.base import Layout, has_shapes
from .layouts.transformers import unstacked
from .places import Target, targets_of
from .rules import renamed
from .ties import tied_names
from .turning import one_side
from .words import told_apart

# Counters of the library itself, which nothing here has a place for.
_COUNTERS = ("num_batches_tracked",)
_COLLECTIONS = re.compile("^(params|batch_stats|model|state_dict|module|variables)[/.]")


class _Fit(NamedTuple):
    """Arrays below a prefix that fit a place.

    Attributes:
      prefix: of the names, with ``/`` between their parts.
      layout: that turns them into ours.
      names: those that it takes, as they are in the file, by their names below the prefix.
    """

    prefix: str
    layout: Layout
    names: Mapping[str, str]


class Pairing(NamedTuple):
    """A place of the model and the arrays that go there.

    Attributes:
      path: of the layer; of one of several copies with its number.
      names: of the arrays in the file.
      says: the layout, in words.
      how: ``"rule"``, ``"name"``, ``"the only one that fits"`` or ``"order"``.
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
        pairs: list[tuple[Target, _Fit, str]],
        missing: list[Target],
        extra: list[str],
        ambiguous: dict[str, list[str]],
    ):
        self._arrays, self._pairs, self._missing = arrays, pairs, missing
        self.library = library
        self.matched = [
            Pairing(target.place.path, tuple(fit.names.values()), fit.layout.says, how)
            for target, fit, how in pairs
        ]
        self.missing = {target.place.path: dict(target.place.shapes) for target in missing}
        self.extra = extra
        self.ambiguous = ambiguous

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
            why = f"as well {' or '.join(near)}" if near else f"no arrays for {_shapes(shapes)}"
            lines.append(f"  {path:<{width}} <- ?  ({why})")
        lines += [f"  {name}{list(self._arrays[name].shape)} goes nowhere" for name in self.extra]
        return "\n".join(lines)

    @property
    def complete(self) -> bool:
        """Whether each place has its arrays, and each array its place."""
        return not self.missing and not self.extra

    @public_api
    def load(self, *, strict: bool = True) -> tuple[Params, State]:
        """The parameters and the state, as NumPy arrays of the file's dtypes.

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
                hint='match(..., rules=["theirs -> ours"]), "theirs ->" for what is left out',
            )
        stacked: dict[tuple[int, str], dict[tuple[int, ...], np.ndarray]] = {}
        for target, fit, _ in self._pairs:
            given = {name: np.asarray(self._arrays[full]) for name, full in fit.names.items()}
            for name, array in fit.layout.convert(given, target.place).items():
                collection, path, copy = target.arrays[name]
                stacked.setdefault((collection, path), {})[copy] = array
        trees: tuple[Params, State] = ({}, {})
        for (collection, path), copies in stacked.items():
            *above, name = path.split("/")
            node = trees[collection]
            for step in above:
                node = node.setdefault(step, {})
            node[name] = _stacked(copies)
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
      arrays: of a file (``interop.read``), or any mapping of names to arrays, such as a
        ``state_dict`` with NumPy arrays.
      rules: corrections, a line each: ``"theirs -> ours"`` renames a prefix of theirs (``*`` is any
        part between two separators, on both sides), ``"theirs ->"`` leaves out what it matches.
      library: ``"torch"``, ``"keras"`` or ``"flax"``; None for the one that fits most layers.

    Returns:
      A ``Plan``; ``plan.load()`` gives ``(params, state)``.

    Raises:
      InteropError: for a rule that matches nothing, or an unknown library.

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
    if library is not None and library not in LAYOUTS:
        raise InteropError(f"no layouts of {library!r}", expected=", ".join(LAYOUTS))
    arrays = unstacked(arrays)
    targets = targets_of(model, x)
    names, left_out = _renamed(arrays, rules)
    plan = _planned(targets, names, arrays, left_out, library)
    if not plan.complete and (ties := tied_names(arrays, names.values())):
        once = {path: name for path, name in names.items() if name not in ties}
        other = _planned(targets, once, arrays, left_out | ties, library)
        return min((plan, other), key=lambda each: len(each.missing) + len(each.extra))
    return plan


def _planned(
    targets: list[Target],
    names: Mapping[str, str],
    arrays: Arrays,
    left_out: set[str],
    library: str | None,
) -> Plan:
    """The plan for names that were changed by the rules."""
    found = {
        each: _fits(targets, names, arrays, LAYOUTS[each])
        for each in ([library] if library else LAYOUTS)
    }
    for fits in found.values():
        one_side(fits)
        told_apart([target.place.path for target in targets], fits)
    best = max(found, key=lambda each: sum(map(bool, found[each])))
    pairs, ambiguous = _paired(targets, found[best])
    taken = {name for _, fit, _ in pairs for name in fit.names.values()}
    done = {id(target) for target, _, _ in pairs}
    extra = [
        name
        for name in arrays
        if name not in taken and name not in left_out and not name.endswith(_COUNTERS)
    ]
    missing = [target for target in targets if id(target) not in done]
    return Plan(arrays, best, pairs, missing, extra, ambiguous)


def _renamed(arrays: Arrays, rules: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """The names with ``/`` between their parts, as the rules make them, and those left out."""
    split = {name: _COLLECTIONS.sub("", name.replace(".", "/")) for name in arrays}
    # Rules may begin as the names in the file do.
    split, left_out = renamed(split, [_COLLECTIONS.sub("", rule.strip()) for rule in rules])
    return {path: name for name, path in split.items()}, left_out


def _fits(
    targets: list[Target], names: Mapping[str, str], arrays: Arrays, layouts: Iterable[Layout]
) -> list[list[_Fit]]:
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
    order = {path: i for i, path in enumerate(names)}

    def first(fit: _Fit) -> int:
        return min(order[_join(fit.prefix, name)] for name in fit.names)

    found = []
    for target in targets:
        same = Layout("the same names", (), tuple(target.place.shapes), (), _as_it_is)
        here = []
        for layout in (*by_maker.get(target.place.maker, ()), same):
            for prefix in ends.get(layout.needs[0], ()):
                given = {
                    name: _join(prefix, name)
                    for name in (*layout.needs, *layout.may)
                    if _join(prefix, name) in names
                }
                if given.keys() >= set(layout.needs) and has_shapes(
                    layout, {name: shapes[path] for name, path in given.items()}, target.place
                ):
                    here.append(_Fit(prefix, layout, {n: names[p] for n, p in given.items()}))
        found.append(sorted(here, key=first))
    return found


def _as_it_is(weights: Mapping[str, np.ndarray], place: Any) -> dict[str, np.ndarray]:
    return dict(weights)


def _paired(
    targets: list[Target], fits: list[list[_Fit]]
) -> tuple[list[tuple[Target, _Fit, str]], dict[str, list[str]]]:
    """Pairs, and the places that several prefixes fit."""
    chosen: dict[int, tuple[_Fit, str]] = {}
    used: set[str] = set()

    def choose(i: int, fit: _Fit, how: str) -> None:
        chosen[i] = fit, how
        used.update(fit.names.values())

    def open_fits(i: int) -> list[_Fit]:
        return [fit for fit in fits[i] if used.isdisjoint(fit.names.values())]

    for i, target in enumerate(targets):
        named = [fit for fit in open_fits(i) if fit.prefix == target.place.path]
        if named:
            choose(i, named[0], "name")
    changed = True
    while changed:
        changed = False
        for i in range(len(targets)):
            if i in chosen:
                continue
            left = open_fits(i)
            wanted_elsewhere = {
                name
                for j in range(len(targets))
                if j != i and j not in chosen
                for fit in open_fits(j)
                for name in fit.names.values()
            }
            if len(left) == 1 and wanted_elsewhere.isdisjoint(left[0].names.values()):
                choose(i, left[0], "the only one that fits")
                changed = True
        changed = changed or _by_order(targets, chosen, open_fits, choose)
    ambiguous = {
        targets[i].place.path: [fit.prefix for fit in left]
        for i in range(len(targets))
        if i not in chosen and (left := open_fits(i))
    }
    return [(targets[i], *chosen[i]) for i in sorted(chosen)], ambiguous


def _by_order(targets: list[Target], chosen: Any, open_fits: Any, choose: Any) -> bool:
    """Pairs places with as many prefixes, all of which fit all of them; whether there were any."""
    for i in range(len(targets)):
        if i in chosen or not (left := open_fits(i)):
            continue
        names = [tuple(fit.names.values()) for fit in left]
        alike = [
            j
            for j in range(len(targets))
            if j not in chosen and [tuple(f.names.values()) for f in open_fits(j)] == names
        ]
        if len(alike) == len(left) and len({name for group in names for name in group}) == sum(
            map(len, names)
        ):
            options = {j: open_fits(j) for j in alike}
            for number, j in enumerate(alike):
                choose(j, options[j][number], "order")
            return True
    return False


def _stacked(copies: Mapping[tuple[int, ...], np.ndarray]) -> Any:
    """One array, or those of all copies stacked."""
    if () in copies:
        return jnp.asarray(copies[()])
    sizes = tuple(max(place) + 1 for place in zip(*copies, strict=True))
    return jnp.asarray(
        np.stack([copies[c] for c in sorted(copies)]).reshape(*sizes, *copies[min(copies)].shape)
    )


def _join(prefix: str, name: str) -> str:
    return f"{prefix}/{name}" if prefix else name


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
