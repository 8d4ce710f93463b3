"""memory_plan: the largest batch whose training step fits into the memory of one device.

How to read this file: ``memory_plan`` asks the dry run of ``jlayers.sharding``, for a mesh of one
device, at several sizes of the batch; ``MemoryPlan`` holds the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from ..base.errors import TrainingError, public_api
from ..base.specs import format_short, format_spec, specs_of
from ..base.types import PyTree
from ..sharding import Plan, data_parallel, plan
from ..sharding.layout import human
from ..sharding.plan import Compiled, as_bytes, compiled_step
from .step import TrainStep

# A batch of so many rows that fits ends the search.
_MOST_ROWS = 2**30


class MemoryPlan(NamedTuple):
    """What a training step needs on one device, and how many rows of a batch fit.

    Attributes:
      limit: bytes of the device.
      rows: the largest of the batches that were tried that fits: a power of two (of parts, with
        ``accumulate``); 0 if not one row does.
      parts: bytes at ``rows`` (at the first that does not fit, if none does): "parameters",
        "gradients", "optimizer", "state", "batch" and "activations".
      tried: bytes in all for each number of rows that was looked at.
      compiled: what XLA says of the step at ``rows``, if asked for.
    """

    limit: int
    rows: int
    parts: Mapping[str, int]
    tried: Mapping[int, int]
    compiled: Compiled | None = None

    def __str__(self) -> str:
        lines = [f"{name:<12} {human(size):>8}" for name, size in self.parts.items()]
        lines.append(f"{'sum':<12} {human(sum(self.parts.values())):>8}")
        if self.compiled is not None:
            lines.append(f"XLA's own    {human(self.compiled.total):>8}")
        more = min((rows for rows in self.tried if rows > self.rows), default=None)
        limit = human(self.limit)
        beyond = "" if more is None else f", not at {more} ({human(self.tried[more])})"
        if self.rows:
            lines.append(f"fits in {limit} at batch {self.rows}{beyond}")
        else:
            lines.append(f"does not fit in {limit}{beyond.replace(', not', '')}")
        return "\n".join(lines)


@public_api
def memory_plan(
    step: TrainStep, batch: PyTree, *, limit: str | int, compile: bool = False
) -> MemoryPlan:
    """The largest batch that one device of a given memory can train on. No array is made.

    Counted are parameters, gradients, the optimiser's state, the batch, and what the backward pass
    keeps of the forward pass under the model's ``remat``, as JAX derives it. XLA needs less where
    it merges operations, and more for what an operation needs while it runs: its own figure, which
    ``compile=True`` adds, was within a third either way (docs/inspection.md). A step on a mesh has
    ``sharding.plan``.

    Args:
      step: ``training.train_step(model, loss, tx)``.
      batch: ``(x, *targets)``, arrays or specs of any number of rows: the first axis of each.
      limit: ``"24 GB"``, ``"80 GiB"``, or bytes.
      compile: whether XLA compiles the step for the batch that fits, on this machine.

    Returns:
      A ``MemoryPlan``; ``print`` it.

    Raises:
      TrainingError: for a step with a mesh or with ``steps``, and for arrays of different numbers
        of rows.

    >>> import jax, jax.numpy as jnp, optax, jlayers as jl
    >>> from jlayers import training
    >>> model = jl.serial(jl.Dense(1024), jax.nn.relu, jl.Dense(1))
    >>> loss = lambda y, target: jnp.mean((y - target) ** 2)
    >>> step = training.train_step(model, loss, optax.adam(1e-3))
    >>> print(training.memory_plan(step, (jl.spec((8, 256)), jl.spec((8, 1))), limit="10 MB"))
    parameters    1.06 MB
    gradients     1.06 MB
    optimizer     2.11 MB
    state            12 B
    batch          526 kB
    activations   4.72 MB
    sum           9.47 MB
    fits in 10 MB at batch 512, not at 1024 (14.7 MB)
    """
    if not isinstance(step, TrainStep):
        raise TrainingError(
            "step must be made by training.train_step",
            expected="training.train_step(model, loss, tx)",
            got=format_short(step),
        )
    if step.mesh is not None or step.steps > 1:
        raise TrainingError(
            "the step is of several devices or several steps",
            expected="train_step(model, loss, tx) without mesh= and steps=",
            hint="sharding.plan(step, batch, memory=...) for a mesh",
        )
    specs, bound = specs_of(batch, "the batch"), as_bytes(limit)
    _check_rows(specs)
    # One device, which need not exist.
    mesh = jax.sharding.AbstractMesh((1,), ("data",))
    alone = dataclasses.replace(step, mesh=mesh, rules=data_parallel("data"))
    plans: dict[int, Plan] = {}

    def total(rows: int) -> int:
        if rows not in plans:
            plans[rows] = plan(alone, _with_rows(specs, rows), compile=False)
        return plans[rows].total

    rows = _largest(total, bound, step.accumulate)
    shown = rows or step.accumulate
    found = None
    if compile:
        given = _with_rows(specs, shown)
        found = compiled_step(step, step.spec(given[0]), given)
    sizes = {rows: plans[rows].total for rows in sorted(plans)}
    return MemoryPlan(bound, rows, plans[shown].parts, sizes, found)


def _largest(total: Callable[[int], int], bound: int, unit: int) -> int:
    """The largest ``unit * 2**k`` whose total is at most ``bound``; 0 if that of ``unit`` is not.

    A step grows by its batch about evenly: where it fills the memory follows from two sizes, and is
    looked at then.
    """
    if total(unit) > bound:
        return 0
    each = max((total(8 * unit) - total(unit)) // 7, 1)
    rows = unit
    while 2 * rows <= _MOST_ROWS and total(unit) + each * (2 * rows // unit - 1) <= bound:
        rows *= 2
    while rows > unit and total(rows) > bound:
        rows //= 2
    while 2 * rows <= _MOST_ROWS and total(2 * rows) <= bound:
        rows *= 2
    return rows


def _check_rows(specs: PyTree) -> None:
    leaves = jax.tree.leaves_with_path(specs)
    rows = {leaf.shape[0] if leaf.shape else None for _, leaf in leaves}
    if not isinstance(specs, tuple | list) or len(rows) != 1 or None in rows:
        raise TrainingError(
            "the first axis of each array of the batch must be that of its rows",
            expected="(x, *targets) with the same number of rows",
            got=format_spec(specs),
        )


def _with_rows(specs: PyTree, rows: int) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype), specs
    )
