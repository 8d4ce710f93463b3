"""How a training step lies on a mesh: its options checked, its state started, its values placed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..base import processes
from ..base.errors import TrainingError
from ..base.layer import Layer
from ..base.specs import format_short, format_spec, path_text, specs_of
from ..base.types import Params, PyTree, State
from ..inspection.residuals import stored_bytes
from ..inspection.training_loss import training_loss
from ..sharding import Layout, Rules
from ..sharding.batches import put, put_batch, put_rows
from .state import TrainState, check_patterns, evaluated

T = TypeVar("T")


def check_sharding(mesh: object, rules: object) -> None:
    """Raises unless there are both a mesh and rules, or neither."""
    if rules is not None and not isinstance(rules, Rules):
        raise TrainingError(
            "rules must be sharding rules",
            expected='jl.sharding.fsdp("data"), or jl.sharding.rules({...})',
            got=format_short(rules),
        )
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh | jax.sharding.AbstractMesh):
        raise TrainingError(
            "mesh must be a mesh of devices",
            expected='jax.make_mesh((4, 2), ("data", "model"))',
            got=format_short(mesh),
        )
    if (mesh is None) != (rules is None):
        which = (
            "rules are given without a mesh" if mesh is None else "a mesh is given without rules"
        )
        raise TrainingError(
            which,
            hint='mesh=jax.make_mesh((4,), ("data",)), rules=jl.sharding.data_parallel("data")',
        )


def layout_of(model: Layer, x: PyTree, mesh: Any, rules: Rules | None) -> Layout | None:
    """The layout of a model, where there are a mesh and rules."""
    return None if mesh is None or rules is None else rules.layout(model, x, mesh)


def on_mesh(function: Callable[..., T], mesh: Any, rules: Rules | None) -> Callable[..., T]:
    """The function with the mesh around it, if any; what it returns is whole on each device."""
    if mesh is None or rules is None:
        return function
    layout = Layout(mesh, rules.batch, {})
    return layout.as_auto(function, layout.sharding(jax.sharding.PartitionSpec()))


def run_on_mesh(layout: Layout | None, run: Callable[..., T], further: int, *given: Any) -> T:
    """``run(*given)``, with the mesh around it, if there is one.

    Args:
      layout: of the model, or None.
      run: returns a state and so many ``further`` trees of scalars.
      given: the arguments of ``run``, a state first.
    """
    if layout is None:
        return run(*given)
    whole = layout.sharding(jax.sharding.PartitionSpec())
    return layout.as_auto(run, (layout.of(given[0]), *(whole,) * further))(*given)


def first_of(stack: PyTree) -> PyTree:
    """The first of the batches in a stack."""
    return jax.tree.map(lambda leaf: leaf[0], stack)


def start_sharded(
    make: Callable[..., TrainState],
    layout: Layout,
    key: jax.Array,
    x: PyTree,
    params: Params | None,
    state: State | None,
) -> TrainState:
    """What ``make(key, x, params=, state=)`` returns, made where it is to lie."""
    layout.check_devices("step.start")
    specs = specs_of(x)
    _check_alike(layout, key, specs, (params, state))

    def start(key: jax.Array, params: Params | None, state: State | None) -> TrainState:
        return make(key, specs, params=params, state=state)

    places = layout.of(jax.eval_shape(start, key, params, state))
    # Those that are given lie on one device or on the host: each device takes its own part.
    given = (
        None if params is None else layout.shard(params),
        None if state is None else layout.shard(state),
    )
    everywhere = layout.sharding(jax.sharding.PartitionSpec())
    return jax.jit(start, out_shardings=places)(put(key, everywhere), *given)  # type: ignore[no-any-return]


def _check_alike(layout: Layout, key: jax.Array, x: PyTree, given: PyTree) -> None:
    """Raises on every process where they would start from different states.

    Of values that are given 64 of each array are looked at, as ``Batches.fingerprint`` does.
    """
    if processes.count() == 1:
        return

    def values(leaf: Any) -> str:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return str(leaf.sharding)
        flat = np.asarray(leaf).reshape(-1)
        return str(flat[np.linspace(0, max(flat.size - 1, 0), min(flat.size, 64)).astype(int)])

    words = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    lines = [
        f"{path_text(path)}: {values(leaf)}" for path, leaf in jax.tree.leaves_with_path(given)
    ]
    facts = {
        "the key": str(np.asarray(words).tolist()),
        "the shapes of the input": ", ".join(map(format_spec, jax.tree.leaves(x))),
        "the parameters and where they lie": str(layout),
        "the values that are given": "\n".join(lines),
    }
    processes.agree("step.start", facts)


def kept_activations(step: Any, state: TrainState, batch: Any) -> int:
    """Bytes of what the derivative of a step's loss keeps, without the parameters themselves."""
    rows = step.accumulate

    def kept(state: TrainState, batch: Any) -> list[Any]:
        def loss(params: Params) -> jax.Array:
            key = jax.random.fold_in(state.key, state.step)
            model = evaluated(step.model, params, check_patterns(step.frozen))
            given = (params, state.state, key, batch, None, state.step)
            return training_loss(model, step.loss, *given)[0]

        return jax.tree.leaves(jax.vjp(loss, state.params)[1])

    part = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] // rows, *leaf.shape[1:]), leaf.dtype),
        batch,
    )
    return sum(stored_bytes(jax.make_jaxpr(kept)(state, part).jaxpr).values())


def batch_placer(mesh: Any, rules: Rules, stacked: bool, own: bool) -> Callable[[Any], Any]:
    """``put(item)`` for the items of a loop, whose first entry is a batch or a stack of batches.

    Args:
      own: whether they have the rows of this process alone.
    """
    place = put_rows if own else put_batch

    def put_item(item: Any) -> Any:
        batch, *others = item
        return place(mesh, rules.batch, batch, stacked=int(stacked)), *others

    return put_item


def one_at_a_time(call: Callable[..., T]) -> Callable[..., T]:
    """On CPUs, a program that has ended when the call returns, where there are several processes.

    Gloo's collectives hold the threads that they wait on, so that two programs under way may stand
    in each other's way for good.
    """
    if processes.count() == 1 or jax.default_backend() != "cpu":
        return call

    def waiting(*args: Any) -> T:
        return processes.ready("fit", call(*args))

    return waiting


def on_devices(batch: T, mesh: Any, rules: Rules | None, stacked: bool) -> T:
    """A batch of a loop of the user's own, on the mesh; one that is traced stays as it is."""
    leaves = jax.tree.leaves(batch)
    if not isinstance(mesh, jax.sharding.Mesh) or rules is None:
        return batch
    if any(isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct) for leaf in leaves):
        return batch
    return put_batch(mesh, rules.batch, batch, stacked=int(stacked))


def check_placed(state: PyTree, mesh: Any) -> None:
    """Raises unless the arrays of a state lie on this mesh."""
    for path, leaf in jax.tree.leaves_with_path(state):
        if getattr(getattr(leaf, "sharding", None), "mesh", None) != mesh:
            raise TrainingError(
                f"the state does not lie on the mesh of the step, at {path_text(path)!r}",
                expected=f"arrays on {mesh}",
                got=str(getattr(leaf, "sharding", "an array on the host")),
                hint="step.start(key, x) makes it there, step.layout(x).shard(state) puts it there",
            )
