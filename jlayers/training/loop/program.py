"""What a loop compiles: a step that takes care of itself, and sums up what it measures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...inspection.compilation.watch import CompileWatch
from ..finite import finite, keep_if
from ..gradient import Metrics
from ..step import Step, TrainStep
from ..validation import check_result
from .flat import Form, flattened
from .metrics import Tally, cut

# (run, batch, alive) to the next run, its metrics, and whether the step was sound.
Guarded = Callable[[Any, Any, Any], tuple[Any, Metrics, jax.Array]]


class Program(NamedTuple):
    """The jitted functions of a loop.

    Attributes:
      guarded: one step.
      tick: of a ``Form`` of run and tally, (leaves, batch) to the next leaves; they are donated.
      rest: the same for a stack with fewer batches, whose compilation is no news.
      cut: the numbers of a tally in one array, and the tally after a record.
      finite: whether all numbers of a tree are finite.
      watch: of the compilations of ``tick``.
    """

    guarded: Any
    tick: Callable[[Form], Any]
    rest: Callable[[Form], Any]
    cut: Any
    finite: Any
    watch: CompileWatch


def program_of(step: Step, guard: bool, stops: bool, many: bool) -> Program:
    """The program of a step; a loop that is called again for the same step finds it compiled."""
    make = _program_of if isinstance(step, Hashable) else _program_of.__wrapped__
    return make(step, guard, stops, many)


@functools.lru_cache(maxsize=8)
def _program_of(step: Step, guard: bool, stops: bool, many: bool) -> Program:
    """The program of a step.

    Args:
      step: any pure step.
      guard: whether to look if it is sound.
      stops: whether nothing is to change any more after a step that was not.
      many: whether a call takes a stack of batches.
    """
    # Traced for the names of its metrics first; inlined, its second trace is the first one.
    one = jax.jit(guarded(step, guard), inline=True)
    watch = CompileWatch(tick_of("tick", one, stops, many), name="the step", unit="step")
    rest = tick_of("rest", one, stops, many)
    cuts = jax.jit(functools.partial(cut, clear=not stops))
    return Program(one, _jitted(watch.traced), _jitted(rest), cuts, jax.jit(finite), watch)


def _jitted(tick: Callable[..., Any]) -> Callable[[Form], Any]:
    @functools.lru_cache(maxsize=8)
    def of(form: Form) -> Any:
        return jax.jit(flattened(tick, form), donate_argnums=0)

    return of


def guarded(step: Step, guard: bool) -> Guarded:
    """Any step as one that tells whether it was sound, and changes nothing where it was not.

    Of a step that is no ``TrainStep`` nothing is known but its metric "loss".
    """
    if isinstance(step, TrainStep) and guard:
        return step.guarded

    def call(run: Any, batch: Any, alive: Any) -> tuple[Any, Metrics, jax.Array]:
        result = step(run, batch)
        check_result(run, result)
        new, metrics = result
        loss = metrics.get("loss")
        sound = jnp.asarray(True) if loss is None else jnp.isfinite(loss)
        if not guard:
            return new, metrics, jnp.asarray(True)
        return keep_if(sound if alive is None else sound & alive, new, run), metrics, sound

    return call


def tick_of(name: str, step: Guarded, stops: bool, many: bool) -> Callable[..., tuple[Any, Tally]]:
    """(run, tally, batch) to the next two: a call of a loop.

    Args:
      name: by which JAX knows the program.
      step: a guarded step.
      stops: whether nothing is to change any more after a step that was not sound.
      many: whether the batch is a stack of batches.
    """

    def one(carry: tuple[Any, Tally], batch: Any) -> tuple[tuple[Any, Tally], None]:
        run, tally = carry
        alive = tally.bad < 0 if stops else None
        run, metrics, sound = step(run, batch, alive)
        return (run, tally.add(metrics, sound, alive)), None

    def tick(run: Any, tally: Tally, batch: Any) -> tuple[Any, Tally]:
        return (lax.scan(one, (run, tally), batch) if many else one((run, tally), batch))[0]

    tick.__name__ = name
    return tick
