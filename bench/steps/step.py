"""One training step: what it is made of, and what is known of it once it has been compiled."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Unavailable(Exception):  # noqa: N818  (it is no error: the others go on without this one)
    """A framework is not installed; the text says what is missing."""


class Training(NamedTuple):
    """A step as a framework has it: ``step(*carry, *data)`` gives ``(*carry, loss)``.

    Args:
      step: jitted, and donating its carry, where the framework compiles.
      carry: parameters, state, optimiser; empty where the step changes objects in place.
      data: what goes in and comes out unchanged: a batch and its labels.
      parameters: how many numbers are trained.
      wait: called with the carry and the loss.
    """

    step: Callable[..., Any]
    carry: tuple[Any, ...]
    data: tuple[Any, ...]
    parameters: int
    wait: Callable[[Any], Any]


class Step(NamedTuple):
    """A training step ready to be timed.

    Args:
      run: one step, waited for; the loss.
      first_losses: those of the first three steps, by which the step is judged.
      trace_seconds, compile_seconds: what these took; None where there is no such thing.
      temp_bytes: what the executable allocates beside its arguments and results.
      parameters: how many numbers are trained.
    """

    run: Callable[[], Any]
    first_losses: tuple[float, ...]
    trace_seconds: float | None
    compile_seconds: float | None
    temp_bytes: int | None
    parameters: int


def prepare(training: Training) -> Step:
    """Traces and compiles a step where that is possible, and takes the first three."""
    trace = compiling = temp = None
    if hasattr(training.step, "lower"):
        start = time.perf_counter()
        lowered = training.step.lower(*training.carry, *training.data)
        traced = time.perf_counter()
        compiled = lowered.compile()
        trace, compiling = traced - start, time.perf_counter() - traced
        memory = getattr(compiled, "compiled", compiled).memory_analysis()
        temp = None if memory is None else int(memory.temp_size_in_bytes)
    carry = training.carry

    def run() -> Any:
        nonlocal carry
        *changed, loss = training.step(*carry, *training.data)
        carry = tuple(changed)
        training.wait((carry, loss))
        return loss

    losses = tuple(float(run()) for _ in range(3))
    return Step(run, losses, trace, compiling, temp, training.parameters)
