"""pipeline: copies of a layer in stages, which work on different parts of a batch at one time.

How to read this file: the batch is divided into parts, and at each tick every stage computes its
copies on the part that it holds, then hands it to the next stage. All stages are one ``vmap`` and
all ticks one ``lax.scan``: where the axis of stages is split over devices, each of them computes
its own stage, and XLA sends results to the next.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from ..base.arguments import Positive
from ..base.collecting import Collected, Wanted, add_collected, wanted
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, error_context
from ..base.factory import factory
from ..base.layer import Layer
from ..base.specs import format_spec, specs_of
from ..base.step_pair import Stepping, stream_of
from ..base.tracing import Trace
from ..base.types import Carry, Key, Params, PyTree, State
from ..core.dispatch import compiled_when_eager
from ..core.dtypes import is_symbolic
from .stack import Policy, repeat
from .transformed import run_collecting
from .transparent import wrapper


@factory
def pipeline(
    layer: LayerOrFunction,
    n: Positive,
    stages: Positive,
    parts: Positive,
    *,
    axis: str = "stage",
    remat: bool | Policy | None = None,
) -> Layer:
    """``repeat(layer, n)`` in stages, for a mesh with an axis of stages (arXiv:1811.06965).

    Stage s has the copies from ``s * n / stages`` on. The batch is divided into ``parts``; while
    one stage computes on a part, the one before it computes on the next. A pass has
    ``parts + stages - 1`` ticks, of which each stage is of use at ``parts``: more parts leave less
    idle, and make smaller products. Parameters, their names and their values at ``init`` are those
    of ``repeat(layer, n)``, and so is the output. With ``sharding.pipeline_parallel(axis)`` each
    device has the parameters of its stages.

    Args:
      layer: a layer whose output has the shapes and dtypes of its input, without a state.
      n: how many copies; ``stages`` divides it.
      stages: how many stages; as many as the mesh has devices along ``axis``, or a multiple.
      parts: of the batch, whose rows it divides (row i is in part ``i % parts``).
      axis: of the mesh. Without a mesh around it all stages are computed where the others are.
      remat: as for ``repeat``.

    Random numbers, of dropout for example, are drawn for each part, and differ from those of
    ``repeat``. A loss that the layer adds is the mean over the parts.

    Raises:
      LayerError: for a layer with a state, and for a batch that ``parts`` does not divide.

    >>> import jax, jlayers as jl
    >>> block = jl.residual(jl.Dense(8))
    >>> deep = jl.pipeline(block, 12, stages=4, parts=2)
    >>> params, state = deep.init(jax.random.key(0), jl.spec((4, 8)))
    >>> x = jax.random.normal(jax.random.key(1), (4, 8))
    >>> (y, _), (same, _) = (m.apply(params, state, x) for m in (deep, jl.repeat(block, 12)))
    >>> bool(abs(y - same).max() < 1e-4 * abs(y).max())
    True
    """
    inner = lift(layer)
    if n % stages:
        raise LayerError(
            f"{stages} stages do not divide {n} copies", expected="stages= that divides n"
        )
    whole, stage = repeat(inner, n, remat), repeat(inner, n // stages, remat)

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = whole._abstract(whole, key, x)
        if found.state:
            raise LayerError(
                "the layer of a pipeline has a state, which parts would change at different times",
                got=format_spec(found.state),
                hint="a norm without running statistics, such as LayerNorm, or repeat",
            )
        return found, y

    @compiled_when_eager("train", "collects")
    def run(
        params: Params, x: PyTree, *, key: Key, train: bool, collects: Wanted
    ) -> tuple[PyTree, list[jax.Array]]:
        own = jax.tree.map(lambda a: a.reshape(stages, n // stages, *a.shape[1:]), params)
        given = jax.tree.map(lambda a: _divided(a, parts), x)
        numbers = jnp.arange(stages, dtype=jnp.int32)
        place, mapped_axis = _on_mesh(axis)

        def compute(
            params: Params, x: PyTree, number: jax.Array, part: jax.Array
        ) -> tuple[PyTree, list[jax.Array]]:
            here = None
            if key is not None:
                here = jax.random.fold_in(jax.random.fold_in(key, part), number)
            with error_context(inner):
                (y, _), found = run_collecting(stage, params, {}, x, here, train, collects)
                if found.captured:
                    raise LayerError(
                        "a value is captured in a pipeline, which takes parts of the batch",
                        got=repr(found.captured[0].name),
                        hint="repeat instead of pipeline, which has the same parameters",
                    )
            return y, found.losses

        all_stages = jax.vmap(compute, axis_size=stages, spmd_axis_name=mapped_axis)

        def tick(
            carry: tuple[PyTree, PyTree], t: jax.Array
        ) -> tuple[tuple[PyTree, PyTree], list[jax.Array]]:
            held, done = carry
            # Behind the last part the stages that are through compute on it once more.
            new = jax.tree.map(lambda a: a[jnp.minimum(t, parts - 1)], given)
            held = jax.tree.map(lambda a, b: place(jnp.concatenate([a[None], b[:-1]])), new, held)
            at = t - numbers
            y, losses = all_stages(own, held, numbers, at)
            y = jax.tree.map(place, y)
            # Until the first part is through the last stage, its place is written in vain.
            out = jnp.maximum(t - (stages - 1), 0)
            put = lax.dynamic_update_index_in_dim
            done = jax.tree.map(lambda a, b: put(a, b[-1], out, 0), done, y)
            used = (at >= 0) & (at < parts)
            return (y, done), [jnp.sum(jnp.where(used, _rows_of(loss), 0)) for loss in losses]

        # Not zeros, at which a derivative may be infinite, though nothing of it is used.
        held = jax.tree.map(lambda a: jnp.broadcast_to(a[0], (stages, *a.shape[1:])), given)
        ticks = jnp.arange(parts + stages - 1, dtype=jnp.int32)
        (_, done), losses = lax.scan(tick, (held, given), ticks)
        return jax.tree.map(_joined, done), [jnp.sum(loss) / parts for loss in losses]

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        # Sizes without a number, in a program for all of them, cannot be divided.
        if is_symbolic(*(leaf.shape[0] for leaf in jax.tree.leaves(x) if leaf.ndim)):
            return whole._apply(params, state, x, key=key, train=train)
        _check_rows(x, parts)
        if state:
            raise LayerError(
                "a value is given to a layer in a pipeline, which takes parts of the batch",
                hint="repeat instead of pipeline, which has the same parameters",
            )
        y, losses = run(params, x, key=key, train=train, collects=wanted())
        add_collected(Collected(losses, []))
        return y, state

    def start(params: Params, state: State, x: PyTree, *, capacity: int | None) -> Carry:
        return stream_of(whole).start(params, state, x, capacity=capacity)

    def advance(
        params: Params, state: State, carry: Carry, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, Carry, State]:
        return stream_of(whole).advance(params, state, carry, x, key=key, train=train)

    more: dict[str, Any] = {"axis": axis, "remat": remat}
    again = functools.partial(pipeline, n=n, stages=stages, parts=parts, **more)
    return wrapper(inner, abstract, apply, again, Stepping(start, advance), n)


def _divided(x: jax.Array, parts: int) -> jax.Array:
    """(parts, rows / parts, ...). Neighbours go to different parts: so those of a device stay."""
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)


def _joined(x: jax.Array) -> jax.Array:
    """The inverse of ``_divided``."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])


def _rows_of(loss: jax.Array) -> jax.Array:
    """A loss of each stage: those of its copies are summed."""
    return jnp.sum(loss, axis=tuple(range(1, loss.ndim)))


def _on_mesh(axis: str) -> tuple[Any, str | None]:
    """What splits an array by stages, and the axis of the mesh that a ``vmap`` of stages is on."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if kinds.get(axis) != AxisType.Auto:
        return (lambda x: x), None

    def place(x: jax.Array) -> jax.Array:
        spec = PartitionSpec(axis, *(PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1))
        placed: jax.Array = lax.with_sharding_constraint(x, spec)
        return placed

    return place, axis


def _check_rows(x: PyTree, parts: int) -> None:
    for leaf in jax.tree.leaves(x):
        if not leaf.ndim or leaf.shape[0] % parts:
            raise LayerError(
                f"the batch cannot be divided into {parts} parts",
                expected=f"arrays whose first axis is a multiple of parts={parts}",
                got=format_spec(specs_of(x)),
            )
