"""Layout: where each array of a model lies on a mesh, and so all that is made from its parameters.

How to read this file: ``Placed`` is one parameter. ``Layout.of`` finds the parameter behind a leaf
of any tree, be it a moment of an optimiser, an average or an entry of a checkpoint, by the end of
its path, and ``of_carry`` the layer behind a cache; ``shard`` and ``constrain`` use them.
``as_auto`` and ``keep_rows`` are for programs of a step, ``__str__`` is the table that users read.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ..base import processes
from ..base.errors import LayerError
from ..base.paths import unflatten
from ..base.specs import format_short, path_text
from ..base.types import Params, PyTree
from .batches import AnyMesh, batch_shardings, parts_of, put

T = TypeVar("T")
P = PartitionSpec
# Kernels of layers whose carry has heads, or units with gates.
_OF_UNITS = ("key_kernel", "recurrent_kernel")


class Placed(NamedTuple):
    """One parameter, or one entry of the state.

    Attributes:
      shape, dtype: of the whole array, stacked axes included.
      spec: which axes of the mesh split which of its axes.
      trained: False for an entry of the state.
      note: why it is not split where one would expect it to be.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    spec: PartitionSpec
    trained: bool = True
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The places of a model's arrays on a mesh; ``Rules.layout`` makes one.

    Attributes:
      mesh: the mesh.
      batch: how arrays of a batch are split, by their first axes.
      placed: every parameter and entry of the state, by its path.
    """

    mesh: AnyMesh
    batch: PartitionSpec
    placed: Mapping[str, Placed]

    def sharding(self, spec: PartitionSpec) -> NamedSharding:
        """``NamedSharding`` on this mesh."""
        return NamedSharding(self.mesh, spec)

    @property
    def params(self) -> Params:
        """The tree of a model's ``params``, with a ``NamedSharding`` for each."""
        flat = {path: self.sharding(one.spec) for path, one in self.placed.items() if one.trained}
        return unflatten(flat)

    def spec_of(self, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        """The spec of an array that was made from a parameter, by the end of its path.

        A moment has the parameter's shape and so its spec. One that an optimiser keeps of the rows
        or the columns alone (Adafactor) has the spec of the axes that are left. All others, such as
        counters, are whole on each device.
        """
        names = path.split("/")
        for start in range(len(names)):
            one = self.placed.get("/".join(names[start:]))
            if one is not None:
                return _spec_for(shape, one)
        return P()

    def of(self, tree: PyTree) -> PyTree:
        """The tree with a ``NamedSharding`` for each leaf: parameters, a ``TrainState``, gradients.

        Args:
          tree: arrays or specs. Paths end with those of the model's parameters and state.

        >>> import jax, optax, jlayers as jl
        >>> mesh = jax.sharding.AbstractMesh((2,), ("data",))
        >>> model, x = jl.Dense(4), jl.spec((8, 3))
        >>> layout = jl.sharding.fsdp("data", least=0).layout(model, x, mesh)
        >>> params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
        >>> layout.of(optax.sgd(0.1, momentum=0.9).init(params))[0].trace["kernel"].spec
        P(None, 'data')
        """
        return jax.tree.map_with_path(
            lambda path, leaf: self.sharding(self.spec_of(path_text(path), np.shape(leaf))), tree
        )

    def of_batch(self, tree: PyTree, *, stacked: int = 0) -> PyTree:
        """The tree with a ``NamedSharding`` for each array of a batch.

        Args:
          tree: arrays or specs.
          stacked: axes in front that are whole, such as the one of ``steps=``.

        Raises:
          LayerError: for an array that cannot be divided evenly.
        """
        return batch_shardings(self.mesh, self.batch, tree, stacked=stacked)

    def of_carry(self, carry: PyTree, rows: PyTree) -> PyTree:
        """The tree with a ``NamedSharding`` for each array of a stream's carry: keys, states.

        Rows are split as those of a batch, and where the heads or the gates of a layer are split so
        is the axis after the rows, which is that of heads or of units.

        Args:
          carry: arrays or specs, under the names of the model's layers.
          rows: for each of them the axis of its rows, -1 where it has none.

        >>> import jax, jlayers as jl
        >>> mesh = jax.sharding.AbstractMesh((2, 2), ("data", "model"))
        >>> model, x = jl.SelfAttention(4, causal=True), jl.spec((8, 5, 16))
        >>> rules = jl.sharding.tensor_parallel("model") + jl.sharding.data_parallel("data")
        >>> layout = rules.layout(model, x, mesh)
        >>> cache = {"keys": jl.spec((8, 4, 10, 4))}
        >>> layout.of_carry(cache, {"keys": 0})["keys"].spec
        P('data', 'model')
        """

        def one(path: tuple[Any, ...], leaf: Any, axis: int) -> NamedSharding:
            shape = np.shape(leaf)
            if axis < 0:
                return self.sharding(P())
            entries = [*(None,) * axis, self.batch[0] if self.batch else None]
            entries.append(self._entry_of_units(path_text(path).rpartition("/")[0]))
            fitting = [
                None if size % parts_of(self.mesh, entry) else entry
                for size, entry in zip(shape, entries, strict=False)
            ]
            return self.sharding(P(*fitting))

        return jax.tree.map_with_path(one, carry, rows)

    def _entry_of_units(self, layer: str) -> Any:
        """What splits the heads or the gates of a layer, beside what splits the batch."""
        names, taken = layer.split("/") if layer else [], set(axes_of(self.batch))
        for start, kernel in itertools.product(range(len(names) + 1), _OF_UNITS):
            one = self.placed.get("/".join((*names[start:], kernel)))
            if one is not None:
                own = [entry for entry in one.spec if entry and not taken & set(axes_of(P(entry)))]
                return own[-1] if own else None
        return None

    def shard(self, tree: T) -> T:
        """The arrays of a tree on the devices of the mesh, see ``of``."""
        self.check_devices("shard")
        return put(tree, self.of(tree))

    def constrain(self, tree: T) -> T:
        """The same values in a program that is being traced, placed as ``of`` says.

        Under ``jit`` XLA is told so, and axes that are explicit are resharded.
        """
        return self._constrained(tree, self.of(tree))

    def constrain_batch(self, tree: T) -> T:
        """The same for the arrays of a batch, see ``of_batch``."""
        return self._constrained(tree, self.of_batch(tree))

    def constrain_carry(self, carry: T, rows: PyTree) -> T:
        """The same for a stream's carry, see ``of_carry``."""
        return self._constrained(carry, self.of_carry(carry, rows))

    def _constrained(self, tree: T, places: PyTree) -> T:
        def place(leaf: Any, sharding: NamedSharding) -> Any:
            return _placed_as(leaf, self.mesh, sharding.spec)

        return jax.tree.map(place, tree, places)  # type: ignore[no-any-return]

    def keep_rows(self, rows: int, *, stacked: int = 0) -> Callable[[PyTree], PyTree]:
        """What keeps arrays of these rows split as a batch is, by their first axis alone.

        Args:
          rows: of the batch; arrays whose first axis it does not divide stay as they are.
          stacked: axes in front that are whole, such as that of the parts of a batch.
        """
        entry = self.batch[0] if self.batch else None

        def place(leaf: Any) -> Any:
            if leaf.ndim < 2 or not rows or leaf.shape[stacked] % rows:
                return leaf
            others = (P.UNCONSTRAINED,) * (leaf.ndim - 1 - stacked)
            return _placed_as(leaf, self.mesh, P(*(None,) * stacked, entry, *others))

        if entry is None or rows % parts_of(self.mesh, entry):
            return lambda tree: tree
        return functools.partial(jax.tree.map, place)

    def as_auto(self, function: Callable[..., T], out: PyTree) -> Callable[..., T]:
        """The function with the mesh around it, and XLA to place what is computed inside.

        On a mesh with explicit axes these are not explicit inside: types that say where each array
        lies leave open where a product of two arrays lies that are both split along what is summed,
        as those of ``tensor_parallel`` and ``fsdp`` are.

        Args:
          function: of trees of arrays.
          out: the shardings of what it returns, or a prefix of that tree.
        """
        if not self.explicit:

            def around(*args: Any) -> T:
                with jax.sharding.use_abstract_mesh(self.abstract_mesh):
                    return function(*args)

            return around
        return jax.sharding.auto_axes(function, out_sharding=out)  # type: ignore[no-any-return]

    @property
    def abstract_mesh(self) -> jax.sharding.AbstractMesh:
        """The mesh without its devices."""
        mesh = self.mesh
        return mesh if isinstance(mesh, jax.sharding.AbstractMesh) else mesh.abstract_mesh

    @functools.cached_property
    def explicit(self) -> bool:
        """Whether an axis of the mesh is explicit: the types of arrays then say where they lie."""
        return AxisType.Explicit in self.mesh.axis_types

    def bytes_of(self, one: Placed) -> int:
        """Bytes of one array on one device."""
        parts = math.prod(parts_of(self.mesh, entry) for entry in one.spec)
        return math.prod(one.shape) * one.dtype.itemsize // parts

    def check_devices(self, what: str) -> None:
        """Raises for a mesh without devices."""
        if not isinstance(self.mesh, jax.sharding.Mesh):
            raise LayerError(
                f"{what} needs devices, and this mesh is abstract",
                expected="jax.make_mesh(...)",
                got=format_short(self.mesh),
            )
        here = {device.process_index for device in self.mesh.devices.flat}
        missing = [index for index in range(processes.count()) if index not in here]
        if missing:
            raise LayerError(
                f"{what}: the mesh has no device of process {', '.join(map(str, missing))}",
                expected=f"devices of all {processes.count()} processes, as jax.make_mesh takes",
                got=f"a mesh of {self.mesh.devices.size} of {jax.device_count()} devices",
            )

    def __str__(self) -> str:
        rows = [
            (
                path,
                f"{one.dtype}[{', '.join(map(str, one.shape))}]",
                spec_text(one.spec),
                f"{human(self.bytes_of(one))} a device" + f" ({one.note})" * bool(one.note),
            )
            for path, one in self.placed.items()
        ]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        lines = [
            "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=False)])
            + f"  {row[3]}"
            for row in rows
        ]
        own = sum(map(self.bytes_of, self.placed.values()))
        whole = sum(math.prod(one.shape) * one.dtype.itemsize for one in self.placed.values())
        sizes = f"total {human(own)} a device, {human(whole)} in all"
        lines.append(f"{sizes}; batches {spec_text(self.batch)}; mesh {mesh_text(self.mesh)}")
        return "\n".join(lines)


def axes_of(spec: PartitionSpec) -> Iterator[str]:
    """The axes of the mesh that a spec names."""
    for entry in spec:
        if entry is not None:
            yield from (entry,) if isinstance(entry, str) else entry


def spec_text(spec: PartitionSpec) -> str:
    """``P('data', None)``."""
    return f"P({', '.join(map(repr, spec))})"


def mesh_text(mesh: AnyMesh) -> str:
    """``data=2, model=4``."""
    return ", ".join(f"{name}={size}" for name, size in mesh.shape.items())


def _placed_as(leaf: Any, mesh: AnyMesh, spec: PartitionSpec) -> Any:
    around = jax.sharding.get_abstract_mesh()
    # In ``as_auto`` the mesh that counts is the one around, whose axes are not explicit there.
    if AxisType.Explicit in mesh.axis_types and not around.are_all_axes_auto:
        return jax.sharding.reshard(leaf, NamedSharding(mesh, spec))
    return jax.lax.with_sharding_constraint(
        leaf, NamedSharding(mesh, spec) if around.empty else spec
    )


def _spec_for(shape: tuple[int, ...], one: Placed) -> PartitionSpec:
    if shape == one.shape:
        return one.spec
    spec = (*one.spec, *(None,) * (len(one.shape) - len(one.spec)))
    without = {
        P(*spec[:axis], *spec[axis + 1 :])
        for axis in range(len(one.shape))
        if (*one.shape[:axis], *one.shape[axis + 1 :]) == shape
    }
    # Of a square matrix it could be either; small as it is, it may lie on each device.
    return without.pop() if len(without) == 1 else P()


def human(size: float) -> str:
    """``1.5 GB``: bytes in powers of 1000.

    >>> human(24), human(1500), human(2.5e9)
    ('24 B', '1.5 kB', '2.5 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
