"""Rules: which part of a parameter each device of a mesh holds, from patterns over paths.

How to read this file: ``rules`` makes a table of patterns and ``Rules`` is what it and the presets
(``presets.py``) have in common; ``Rules.layout`` asks each part for each leaf of a model in turn
and gives a ``Layout`` (``layout.py``). What is checked of a spec comes last.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
from jax.sharding import PartitionSpec

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api, truncate
from ..base.parameters import ParamSpec
from ..base.paths import check_each_fits, matches
from ..base.specs import format_short
from ..base.tracing import Trace, trace
from ..base.types import PyTree
from .batches import AnyMesh, parts_of
from .layout import Layout, Placed, axes_of, spec_text

P = PartitionSpec
# All that no other pattern fits.
REST = "**"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter, or an entry of a model's state, as rules see it.

    Attributes:
      path: in the model.
      shape: of one copy; those that ``repeat`` and ``ensemble`` stack have more axes in front.
      copies: the sizes of these, outermost first.
      stacks: for each of these the name of the child whose copies they are.
      siblings: the shapes of the arrays of the same layer, by name.
      trained: False for an entry of the state.
    """

    path: str
    shape: tuple[int, ...]
    copies: tuple[int, ...] = ()
    stacks: tuple[str, ...] = ()
    siblings: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    trained: bool = True

    @property
    def name(self) -> str:
        """The last segment of the path."""
        return self.path.rpartition("/")[2]

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """The shape of the array, stacked axes included."""
        return self.copies + self.shape


class Choice(NamedTuple):
    """What a part says of a leaf.

    Attributes:
      spec: an entry for each axis, stacked ones included.
      note: why it is not split where one would expect it to be.
      fixed: whether later parts leave it as it is.
    """

    spec: tuple[Any, ...]
    note: str = ""
    fixed: bool = False


# From a leaf, the mesh, and what earlier parts chose; None to leave that as it is.
Choose: TypeAlias = Callable[[Leaf, AnyMesh, "Choice | None"], "Choice | None"]


@dataclasses.dataclass(frozen=True)
class Part:
    """One table or preset.

    Attributes:
      text: as the user wrote it.
      choose: see ``Choose``.
      axes: those of the mesh that it names.
      patterns: of a table, to find those that fit nothing.
      turn: which parts of a sum choose first: tables, then those that split what a layer computes,
        then those that split what is left.
    """

    text: str
    choose: Choose
    axes: tuple[str, ...]
    patterns: tuple[str, ...] = ()
    turn: int = 0


@dataclasses.dataclass(frozen=True)
class Rules:
    """From the leaves of a model to their places on a mesh: a table, presets, or a sum of these.

    In a sum a table's specs stay as they are, and a preset splits further what is left whole, in
    whatever order they are added.

    Attributes:
      parts: tables and presets, in order.
      batch: how arrays of a batch are split, by their first axes.
    """

    parts: tuple[Part, ...]
    batch: PartitionSpec
    _layouts: weakref.WeakKeyDictionary[Trace, dict[AnyMesh, Layout]] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __add__(self, other: object) -> Rules:
        if not isinstance(other, Rules):
            return NotImplemented
        if self.batch and other.batch and self.batch != other.batch:
            raise LayerError(
                "rules that are added split the batch in two ways",
                got=f"{self.batch} and {other.batch}",
                hint="sharding.rules({}, batch=...) + ..., and presets with the same batch axis",
            )
        parts = sorted(self.parts + other.parts, key=lambda part: part.turn)
        return Rules(tuple(parts), self.batch or other.batch)

    def __repr__(self) -> str:
        return " + ".join(part.text for part in self.parts)

    def layout(self, model: LayerOrFunction, x: PyTree, mesh: AnyMesh) -> Layout:
        """The place of each parameter and each entry of the state of a model. Nothing is computed.

        Args:
          model: a layer.
          x: its input, arrays or specs.
          mesh: a ``jax.sharding.Mesh``, or an ``AbstractMesh`` for devices that are not there.

        Raises:
          LayerError: for an axis that the mesh has not, a pattern that fits no path, two patterns
            that fit one leaf and differ, a leaf that none fits, and one that cannot be divided.

        >>> import jax, jlayers as jl
        >>> from jax.sharding import PartitionSpec as P
        >>> mesh = jax.sharding.AbstractMesh((2, 4), ("data", "model"))
        >>> by_path = jl.sharding.rules({"**/kernel": P(None, "model"), "**": P()})
        >>> print(by_path.layout(jl.serial(jl.Dense(8)), jl.spec((4, 3)), mesh))
        dense/kernel  float32[3, 8]  P(None, 'model')   24 B a device
        dense/bias    float32[8]     P()                32 B a device
        total 56 B a device, 128 B in all; batches P(); mesh data=2, model=4
        """
        self._check_mesh(mesh)
        found = trace(lift(model), x)
        # A step asks several times while it is traced.
        known = self._layouts.setdefault(found, {})
        if mesh not in known:
            known[mesh] = self._layout(found, mesh)
        return known[mesh]

    def _layout(self, found: Trace, mesh: AnyMesh) -> Layout:
        tables = ((True, found.parameters), (False, found.variables))
        leaves = {
            path: (table[path], leaf)
            for trained, table in tables
            for path, leaf in _leaves(table, trained)
        }
        patterns = tuple(one for part in self.parts for one in part.patterns if one != REST)
        check_each_fits(patterns, list(leaves), "rule")
        placed = {path: self._place(leaf, spec, mesh) for path, (spec, leaf) in leaves.items()}
        return Layout(mesh, self.batch, _all_placed(placed))

    def _place(self, leaf: Leaf, spec: ParamSpec, mesh: AnyMesh) -> Placed | str:
        chosen: Choice | None = None
        for part in self.parts:
            if chosen is None or not chosen.fixed:
                chosen = part.choose(leaf, mesh, chosen) or chosen
        if chosen is None and leaf.trained:
            return leaf.path
        entries, note = (chosen.spec, chosen.note) if chosen else ((), "")
        while entries and entries[-1] is None:
            entries = entries[:-1]
        return Placed(spec.shape, spec.dtype, P(*entries), leaf.trained, note)

    def _check_mesh(self, mesh: object) -> None:
        if not isinstance(mesh, jax.sharding.Mesh | jax.sharding.AbstractMesh):
            raise LayerError(
                "mesh must be a mesh of devices",
                expected='jax.make_mesh((4, 2), ("data", "model"))',
                got=format_short(mesh),
            )
        named = [(part.text, axis) for part in self.parts for axis in part.axes]
        named += [("batch", axis) for axis in axes_of(self.batch)]
        for where, axis in named:
            if axis not in mesh.shape:
                raise LayerError(
                    f"the mesh has no axis {axis!r}, which {truncate(where)} names",
                    expected=", ".join(map(repr, mesh.shape)),
                )


@public_api
def rules(table: Mapping[str, PartitionSpec], *, batch: PartitionSpec | str | None = None) -> Rules:
    """Rules by path: a pattern over the paths of parameters to a ``PartitionSpec``.

    Args:
      table: ``{"**/query_kernel": P("data", "model"), "**": P()}``: see ``jl.select`` for patterns.
        A spec is that of one copy: the axes that ``repeat`` and ``ensemble`` stack in front are
        whole. ``"**"`` is for all that no other pattern fits. Entries of the state that no
        pattern fits are whole on each device.
      batch: the same for the arrays of a batch, by their first axes; ``"data"`` for ``P("data")``.

    Returns:
      ``Rules``, which ``training.train_step`` takes with a mesh, and which can be added to presets.

    Raises:
      LayerError: for what is not a table of specs.

    >>> import jlayers as jl
    >>> from jax.sharding import PartitionSpec as P
    >>> jl.sharding.rules({"head/kernel": P(None, "model"), "**": P()}, batch="data")
    rules({'head/kernel': P(None, 'model'), '**': P()}, batch=P('data'))
    """
    if not isinstance(table, Mapping):
        raise LayerError(
            "the rules must be a dict",
            expected='{"**/kernel": P(None, "model"), "**": P()}',
            got=format_short(table),
        )
    specs = {}
    for pattern, spec in table.items():
        if not isinstance(pattern, str) or not isinstance(spec, PartitionSpec):
            raise LayerError(
                "a rule must be a pattern and a PartitionSpec",
                expected='"**/kernel": jax.sharding.PartitionSpec(None, "model")',
                got=f"{format_short(pattern)}: {format_short(spec)}",
            )
        specs[pattern] = spec
    split = as_batch(batch)
    shown = ", ".join(f"{pattern!r}: {spec_text(spec)}" for pattern, spec in specs.items())
    text = f"rules({{{shown}}}" + (f", batch={spec_text(split)})" if split else ")")

    def choose(leaf: Leaf, mesh: AnyMesh, before: Choice | None) -> Choice | None:
        fitting = [one for one in specs if one != REST and matches(leaf.path, one)]
        if len({specs[one] for one in fitting}) > 1:
            raise LayerError(
                f"two rules fit {leaf.path!r}",
                got=" and ".join(f"{one!r}: {spec_text(specs[one])}" for one in fitting),
                hint="patterns that fit different paths; '**' is for all others",
            )
        if not fitting and (REST not in specs or before is not None or not leaf.trained):
            return None
        rule = fitting[0] if fitting else REST
        check_fits(specs[rule], leaf, mesh, rule)
        spec = specs[rule]
        whole = (None,) * (len(leaf.shape) - len(spec))
        # A rule for one path means what it says; of the rest a preset may split more.
        return Choice((*(None,) * len(leaf.copies), *spec, *whole), fixed=bool(fitting))

    axes = tuple(axis for spec in specs.values() for axis in axes_of(spec))
    return Rules((Part(text, choose, axes, tuple(specs)),), split)


def _leaves(table: Mapping[str, ParamSpec], trained: bool) -> Iterator[tuple[str, Leaf]]:
    siblings: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, spec in table.items():
        parent, _, name = path.rpartition("/")
        siblings.setdefault(parent, {})[name] = spec.shape_of_one
    for path, spec in table.items():
        steps = spec.key_path
        stacks = tuple(
            str(steps[i - 1]) if i else "" for i, step in enumerate(steps) if isinstance(step, int)
        )
        beside = siblings[path.rpartition("/")[0]]
        yield path, Leaf(path, spec.shape_of_one, spec.copies, stacks, beside, trained)


def as_batch(batch: object) -> PartitionSpec:
    """The argument ``batch``: a spec, the name of an axis, or None."""
    if isinstance(batch, str):
        return P(batch)
    if batch is None or isinstance(batch, PartitionSpec):
        return batch or P()
    raise LayerError(
        "batch must be a PartitionSpec or the name of an axis of the mesh",
        expected='P("data"), or P(("data", "model")) for rows over both',
        got=format_short(batch),
    )


def check_fits(spec: PartitionSpec, leaf: Leaf, mesh: AnyMesh, rule: str) -> None:
    """Raises where a rule's spec has more axes than a leaf, or does not divide them."""
    if len(spec) > len(leaf.shape):
        raise LayerError(
            f"the rule {rule!r} splits more axes than {leaf.path!r} has",
            expected=f"at most {len(leaf.shape)} entries, for the shape {leaf.shape}",
            got=spec_text(spec),
        )
    for size, entry in zip(leaf.shape, spec, strict=False):
        if size % (parts := parts_of(mesh, entry)):
            raise LayerError(
                f"the rule {rule!r} cannot divide {leaf.path!r} evenly",
                expected=f"a multiple of {parts}, the devices along {entry!r}",
                got=f"an axis of {size} in the shape {leaf.shape}",
            )


def _all_placed(placed: Mapping[str, Placed | str]) -> dict[str, Placed]:
    missing = [found for found in placed.values() if isinstance(found, str)]
    if missing:
        shown = ", ".join(missing[:20]) + (", ..." if len(missing) > 20 else "")
        raise LayerError(
            f"no rule fits {missing[0]!r}"
            + (f" and {len(missing) - 1} others" * (len(missing) > 1)),
            got=shown,
            hint='"**": P() for all others, which are then whole on each device',
        )
    return {path: found for path, found in placed.items() if isinstance(found, Placed)}
