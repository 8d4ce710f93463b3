"""What a loop compiles: a step that looks after itself, and sums up what it measures.

How to read this file: ``program_of`` puts it together. ``guarded`` makes any step one that reports
whether it was finite; ``tick_of`` adds the accumulator and, for several steps in a call, the scan.
Between calls the state is a list of plain arrays (``Form``): taking a tree of tuples, dicts and
typed keys apart and putting it together again is a fifth of the host's time for a call, and the
loop needs the tree only where something is due.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from ...base.errors import TrainingError, truncate
from ...base.specs import format_short, format_spec, path_text, specs_of
from ...base.types import PyTree
from ...inspection.compilation.watch import CompileWatch
from ...inspection.training_loss import Metrics
from ..finite import is_finite, select_if
from ..sharded import first_of
from ..step import Step, TrainStep
from .metrics import MetricAccumulator, flush

Leaves: TypeAlias = list[jax.Array]
Options: TypeAlias = tuple[tuple[str, bool | str], ...]
# (state, batch, active) to the next state, its metrics, and whether the step was finite.
Guarded: TypeAlias = Callable[[Any, Any, Any], tuple[Any, Metrics, jax.Array]]
Tick: TypeAlias = Callable[[Any, MetricAccumulator, Any], tuple[Any, MetricAccumulator]]


class Form(NamedTuple):
    """What makes a tree of a list of plain arrays again.

    Attributes:
      treedef: the structure.
      keys: of each typed key, its index among the leaves and its implementation.
    """

    treedef: Any
    keys: tuple[tuple[int, Any], ...]

    def flat(self, tree: PyTree) -> Leaves:
        """The leaves of a tree of this form, keys as their words."""
        leaves = jax.tree.leaves(tree)
        for index, _ in self.keys:
            leaves[index] = jax.random.key_data(leaves[index])
        return leaves

    def tree(self, leaves: Leaves) -> Any:
        """The tree of such leaves."""
        leaves = list(leaves)
        for index, kind in self.keys:
            leaves[index] = jax.random.wrap_key_data(leaves[index], impl=kind)
        return jax.tree.unflatten(self.treedef, leaves)


def form_of(tree: PyTree) -> Form:
    """The form of a tree of arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = (
        (i, jax.random.key_impl(leaf))
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
    return Form(treedef, tuple(keys))


class Program(NamedTuple):
    """The jitted functions of a loop.

    Attributes:
      guarded: one step.
      tick: for a ``Form`` of state and accumulator, (leaves, batch) to the next leaves; the leaves
        are donated.
      rest: the same for a stack with fewer batches, whose compilation is not reported.
      flush: the numbers of an accumulator in one array, and the accumulator after a record.
      is_finite: whether all numbers of a tree are finite.
      watch: of the compilations of ``tick``.
    """

    guarded: Guarded
    tick: Callable[[Form], Callable[[Leaves, Any], Leaves]]
    rest: Callable[[Form], Callable[[Leaves, Any], Leaves]]
    flush: Callable[[MetricAccumulator], tuple[jax.Array, MetricAccumulator]]
    is_finite: Callable[[PyTree], jax.Array]
    watch: CompileWatch


def program_of(step: Step, guard: bool, stops: bool, many: bool, options: Options = ()) -> Program:
    """The program of a step; a loop that is run again for the same step finds it compiled.

    Args:
      step: any pure step.
      guard: whether to check that it is finite.
      stops: whether nothing is to change any more after a step that was not.
      many: whether a call takes a stack of batches.
      options: of XLA.
    """
    # A step without a hash, a dict with __call__ for example, is compiled for each loop.
    make = _program_of if isinstance(step, Hashable) else _program_of.__wrapped__
    return make(step, guard, stops, many, options)


# Of the last steps alone, so that old models are not kept alive (docs/notes/0011-training.md).
@functools.lru_cache(maxsize=8)
def _program_of(step: Step, guard: bool, stops: bool, many: bool, options: Options) -> Program:
    # It is traced for the names of its metrics first; inlined, its second trace reuses the first.
    one = jax.jit(guarded(step, guard), inline=True)
    place = step.placed if isinstance(step, TrainStep) and step.mesh is not None else None
    ticks = functools.partial(tick_of, step=one, stops=stops, many=many, place=place)
    watch = CompileWatch(ticks("tick"), name="the step", unit="step")
    # A name of its own: JAX reports compilations by name, and that of a rest is expected.
    rest = ticks("rest")
    # A loop that stops must still see the bad step at the next record; others may forget it.
    flushes = jax.jit(functools.partial(flush, clear=not stops))
    tick, other = (_jitted(traced, options) for traced in (watch.traced, rest))
    return Program(one, tick, other, flushes, jax.jit(is_finite), watch)


def _jitted(tick: Tick, options: Options) -> Callable[[Form], Callable[[Leaves, Any], Leaves]]:
    # By form: the user's state may get another structure, and is put together by it.
    @functools.lru_cache(maxsize=8)
    def of(form: Form) -> Callable[[Leaves, Any], Leaves]:
        def call(leaves: Leaves, batch: Any) -> Leaves:
            state, accumulator = form.tree(leaves)
            return form.flat(tick(state, accumulator, batch))

        call.__name__ = tick.__name__  # the name that JAX reports to the watch
        return jax.jit(call, donate_argnums=0, compiler_options=dict(options))

    return of


def guarded(step: Step, guard: bool) -> Guarded:
    """Any step as one that reports whether it was finite, and changes nothing where it was not.

    Of a step that is not a ``TrainStep`` only the metric "loss" is known.
    """
    if isinstance(step, TrainStep) and guard:
        return step.guarded

    def call(state: Any, batch: Any, active: Any) -> tuple[Any, Metrics, jax.Array]:
        result = step(state, batch)
        check_result(state, result)
        new, metrics = result
        if not guard:
            return new, metrics, jnp.asarray(True)
        loss = metrics.get("loss")
        finite = jnp.asarray(True) if loss is None else jnp.isfinite(loss)
        # The user's function has run as a whole: all that is left is to drop what it returned.
        taken = finite if active is None else finite & active
        return select_if(taken, new, state), metrics, finite

    return call


def tick_of(
    name: str, step: Guarded, stops: bool, many: bool, place: Callable[[Any, Any], Any] | None
) -> Tick:
    """(state, accumulator, batch) to the next two: a call of a loop.

    Args:
      name: by which JAX knows the program.
      step: a guarded step.
      stops, many: as for ``program_of``.
      place: of a step with a mesh: (state, batch) to the state in its places.
    """

    def one(
        carry: tuple[Any, MetricAccumulator], batch: Any
    ) -> tuple[tuple[Any, MetricAccumulator], None]:
        state, accumulator = carry
        # After a bad step nothing is active, so that its state is there when the host reads of it.
        active = accumulator.bad < 0 if stops else None
        state, metrics, finite = step(state, batch, active)
        return (state, accumulator.add(metrics, finite, active)), None

    def tick(
        state: Any, accumulator: MetricAccumulator, batch: Any
    ) -> tuple[Any, MetricAccumulator]:
        carry = state, accumulator
        if not many:
            return one(carry, batch)[0]
        (state, accumulator), _ = lax.scan(one, carry, batch)
        if place is not None:
            # What leaves a scan lies where XLA likes.
            state = place(state, first_of(batch))
        return state, accumulator

    tick.__name__ = name
    return tick


def check_result(state: PyTree, result: object) -> None:
    """Raises where a user's step does not return a state like ``state``, and metrics."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise TrainingError(
            "the step must return (state, metrics)",
            expected="a tuple of two: the next state, a dict of scalars",
            got=format_short(result),
        )
    trees = (specs_of(tree, "the state") for tree in (state, result[0]))
    was, now = ({path_text(p): x for p, x in jax.tree.leaves_with_path(tree)} for tree in trees)
    for path in [*was, *now]:
        before, after = was.get(path), now.get(path)
        if before is None or after is None or before.shape != after.shape:
            raise TrainingError(
                f"the step changes {path!r} of the state",
                expected=format_spec(before) if before else "no such leaf",
                got=format_spec(after) if after else "no such leaf",
            )
    structure: object = jax.tree.structure(state)
    new: object = jax.tree.structure(result[0])
    if structure != new:
        raise TrainingError(
            "the step changes the structure of the state",
            expected=truncate(str(structure)),
            got=truncate(str(new)),
        )
