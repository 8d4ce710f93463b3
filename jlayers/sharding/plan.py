"""The dry run: what a step of training needs on each device, before there are any devices.

How to read this file: ``plan`` counts the arrays by their layout, and compiles the step for a mesh
that has devices (imitated ones do) to read what XLA adds; ``Plan`` holds the figures and
``Plan.__str__`` is the report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from ..base.errors import LayerError, public_api
from ..base.paths import partition
from ..base.specs import format_short, path_text, specs_of
from ..base.types import PyTree
from .batches import parts_of
from .collectives import Traffic, traffic
from .layout import Layout, human, mesh_text

_UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20,
          "GiB": 2**30}  # fmt: skip
# Below this share of what is on a device, an array that is whole on all of them is not told.
_NOTABLE = 0.01


class PlannedStep(Protocol):
    """What a plan needs of a step; ``training.train_step(..., mesh=, rules=)`` has it."""

    def layout(self, x: PyTree, /) -> Layout | None: ...

    def spec(self, x: PyTree, /) -> Any: ...

    def activations(self, state: Any, batch: Any, /) -> int: ...

    def __call__(self, state: Any, batch: Any, /) -> Any: ...


class Compiled(NamedTuple):
    """What XLA says of the compiled step, for one device.

    Attributes:
      arguments: bytes of the state and the batch.
      temporary: bytes of everything in between: gradients, activations, buffers.
      total: the sum; the new state takes the place of the old one.
      traffic: what is sent between devices, and how much is computed.
    """

    arguments: int
    temporary: int
    total: int
    traffic: Traffic


class Plan(NamedTuple):
    """The figures of a dry run, in bytes of one device.

    Attributes:
      layout: where each parameter lies.
      parts: "parameters", "gradients", "optimizer", "state", "batch" and "activations" (what the
        backward pass keeps of the forward pass, before XLA merges operations).
      whole: the path and the bytes of each large array that lies on each device as a whole.
      memory: of a device, if it was given.
      compiled: what XLA says; None for a mesh without devices, and where it refuses.
      refused: what XLA says of a step that does not fit the memory of the devices it compiles for.
    """

    layout: Layout
    parts: Mapping[str, int]
    whole: Mapping[str, int]
    memory: int | None
    compiled: Compiled | None
    refused: str | None = None

    @property
    def total(self) -> int:
        """Bytes of one device: XLA's where it compiled the step, else the sum of the parts."""
        return self.compiled.total if self.compiled else sum(self.parts.values())

    @property
    def fits(self) -> bool | None:
        """Whether a device's memory suffices; None if it was not given."""
        if self.refused is not None:
            return False
        return None if self.memory is None else self.total <= self.memory

    def __str__(self) -> str:
        mesh = self.layout.mesh
        lines = [f"mesh {mesh_text(mesh)}: {mesh.size} devices; of each:"]
        lines += [f"  {name:<12} {human(size):>8}" for name, size in self.parts.items()]
        lines.append(f"  {'sum':<12} {human(sum(self.parts.values())):>8}")
        if self.compiled is not None:
            of = self.compiled
            lines.append(
                f"XLA's own: {human(of.arguments)} of arguments, {human(of.temporary)} in between"
            )
            lines.append(f"{of.traffic.flops:.3g} FLOPs in products a step and a device")
            for kind, count in sorted(of.traffic.collectives.items()):
                lines.append(f"  {kind:<18} {count:>6} of {human(of.traffic.bytes[kind])} in all")
            if of.traffic.loops_unknown:
                lines.append("  loops of unknown length are counted once")
        lines += [
            f"whole on each device: {path}, {human(size)}" for path, size in self.whole.items()
        ]
        if self.refused is not None:
            lines.append(f"does not fit: {self.refused}")
        elif self.memory is not None:
            verdict = "fits" if self.fits else "does not fit"
            lines.append(f"{verdict}: {human(self.total)} of {human(self.memory)}")
        return "\n".join(lines)


@public_api
def plan(
    step: PlannedStep, batch: PyTree, *, memory: str | int | None = None, compile: bool = True
) -> Plan:
    """What a step of training needs on each device of its mesh. No parameter is made.

    Args:
      step: ``training.train_step(model, loss, tx, mesh=mesh, rules=rules)``. With devices that are
        imitated (``jax.config.update("jax_num_cpu_devices", 256)`` before anything else of JAX)
        XLA compiles the step as for that many; with the devices of a description of a TPU
        (``jax.experimental.topologies``) as for these. With an ``AbstractMesh`` it is not compiled.
      batch: ``(x, *targets)``, arrays or specs, of all devices together.
      memory: of one device: ``"16 GB"``, ``"80 GiB"``, or bytes.
      compile: False for the sizes of the arrays alone.

    Returns:
      A ``Plan``; ``print`` it.

    Raises:
      LayerError: for a step without a mesh, and for what its rules refuse.

    >>> import jax, jax.numpy as jnp, optax, jlayers as jl
    >>> from jlayers import sharding, training
    >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
    >>> model = jl.serial(jl.Dense(1024), jax.nn.relu, jl.Dense(1))
    >>> loss = lambda y, target: jnp.mean((y - target) ** 2)
    >>> where = {"mesh": mesh, "rules": sharding.fsdp("data")}
    >>> step = training.train_step(model, loss, optax.adam(1e-3), **where)
    >>> print(sharding.plan(step, (jl.spec((64, 256)), jl.spec((64, 1))), memory="1 MB"))
    mesh data=4: 4 devices; of each:
      parameters     264 kB
      gradients      264 kB
      optimizer      528 kB
      state            12 B
      batch         16.4 kB
      activations    148 kB
      sum           1.22 MB
    does not fit: 1.22 MB of 1 MB
    """
    specs = specs_of(batch, "the batch")
    if not isinstance(specs, tuple | list) or not specs:
        raise LayerError("the batch must be a tuple", expected="(x, *targets)")
    layout = step.layout(specs[0]) if hasattr(step, "layout") else None
    if layout is None:
        raise LayerError(
            "the step has no mesh",
            expected="training.train_step(..., mesh=mesh, rules=rules)",
            got=format_short(step),
        )
    state = step.spec(specs[0])
    places, split = layout.of(state), layout.of_batch(specs)
    sizes = _by_part(state, places)
    # What is frozen has no gradient.
    frozen: tuple[str, ...] = getattr(step, "frozen", ())
    trained = partition(state.params, *frozen)[1] if frozen else state.params
    parts = {
        "parameters": sizes["params"],
        "gradients": layout_bytes(trained, layout.of(trained)),
        "optimizer": sizes["opt_state"] + sizes["ema"],
        "state": sizes["state"] + sizes["step"] + sizes["key"] + sizes["loss_scale"],
        "batch": layout_bytes(specs, split),
        "activations": step.activations(state, specs) // _rows_apart(layout),
    }
    found, refused = None, None
    if compile and isinstance(layout.mesh, jax.sharding.Mesh):
        try:
            found = compiled_step(step, _placed(state, places), _placed(specs, split))
        except jax.errors.JaxRuntimeError as error:
            # The compiler for TPUs knows how much memory they have.
            refused = str(error).partition("RESOURCE_EXHAUSTED: ")[2].split("\n")[0]
            if not refused:
                raise
    limit = None if memory is None else as_bytes(memory)
    return Plan(layout, parts, _whole(state, places, layout), limit, found, refused)


def layout_bytes(tree: PyTree, places: PyTree) -> int:
    """Bytes of a tree's arrays on one device."""
    return sum(map(_bytes, jax.tree.leaves(tree), jax.tree.leaves(places)))


def as_bytes(memory: str | int) -> int:
    """``"16 GB"`` in bytes.

    >>> as_bytes("16 GB"), as_bytes("80 GiB"), as_bytes(1000)
    (16000000000, 85899345920, 1000)
    """
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    number, _, unit = memory.strip().partition(" ") if isinstance(memory, str) else ("", "", "")
    try:
        size = float(number) * _UNITS[unit.strip()]
        if not 1 <= size < math.inf:
            raise ValueError
        return int(size)
    except (KeyError, ValueError):
        raise LayerError(
            "memory must be bytes, or a number with a unit",
            expected='"16 GB", "80 GiB"',
            got=format_short(memory),
        ) from None


def _bytes(leaf: Any, place: NamedSharding) -> int:
    return math.prod(place.shard_shape(leaf.shape)) * _itemsize(leaf.dtype)


def _itemsize(dtype: Any) -> int:
    # A typed key is held as its words.
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
        return int(math.prod(words.shape) * words.dtype.itemsize)
    return int(np.dtype(dtype).itemsize)


def _by_part(state: Any, places: Any) -> dict[str, int]:
    return {
        name: layout_bytes(getattr(state, name), getattr(places, name)) for name in state._fields
    }


def _rows_apart(layout: Layout) -> int:
    """Among how many devices the rows of a batch, and their steps, are divided."""
    return math.prod(parts_of(layout.mesh, entry) for entry in layout.batch)


def _placed(tree: PyTree, places: PyTree) -> PyTree:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        places,
    )


def compiled_step(step: PlannedStep, state: Any, batch: Any) -> Compiled:
    """What XLA says of a step that it compiles with the state donated."""
    program = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    memory = program.memory_analysis()
    if memory is None:
        raise LayerError("XLA says nothing of the memory of programs for these devices")
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = arguments + temporary + max(new, 0)
    return Compiled(arguments, temporary, total, traffic(program.as_text() or ""))


def _whole(state: Any, places: Any, layout: Layout) -> dict[str, int]:
    """Large arrays that no axis of the mesh divides, though others are divided."""
    leaves = list(_sized(state, places))
    total = sum(size for _, size, _ in leaves)
    if all(is_whole for *_, is_whole in leaves) or layout.mesh.size == 1:
        return {}
    return {path: size for path, size, whole in leaves if whole and size > _NOTABLE * total}


def _sized(state: Any, places: Any) -> Iterable[tuple[str, int, bool]]:
    paths = jax.tree.leaves_with_path(state)
    for (path, leaf), place in zip(paths, jax.tree.leaves(places), strict=True):
        yield path_text(path), _bytes(leaf, place), not any(place.spec)
