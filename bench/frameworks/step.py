"""A training step: how a framework provides it, and what is known once it has been compiled.

Nothing here imports a framework, JAX included.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Optimizer(NamedTuple):
    """An optimiser, by the name that it has in every framework."""

    name: str
    learning_rate: float
    options: dict[str, Any]


SGD = Optimizer("sgd", 0.01, {"momentum": 0.9})
ADAM = Optimizer("adam", 1e-3, {})
ADAMW = Optimizer("adamw", 1e-3, {"weight_decay": 0.01})


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
      run: one step, which waits for its results; the loss. Where ``queues``, it takes how many
        steps to queue before it waits.
      first_losses: those of the first three steps, by which the step is judged.
      parameters: how many numbers are trained.
      trace, compile: what these took; None where the framework does not compile.
      temp_bytes: what the executable allocates besides its arguments and results.
    """

    run: Callable[[], Any]
    first_losses: tuple[float, ...]
    parameters: int
    trace: float | None = None
    compile: float | None = None
    temp_bytes: int | None = None
    queues: bool = False


class Loop(NamedTuple):
    """The body of a training loop as a framework's documentation has it.

    Args:
      step: (carry, x, labels) to (carry, loss).
      carry: what goes from step to step.
      read: the loss to be printed, a scalar array, from that of the last step.
    """

    step: Callable[[Any, Any, Any], Any]
    carry: Any
    read: Callable[[Any], Any] = lambda loss: loss


def compile_timed(jitted: Any, *arguments: Any) -> tuple[Any, float, float, int | None]:
    """The compiled program, the seconds to trace and to compile it, and its temporary bytes."""
    start = time.perf_counter()
    lowered = jitted.lower(*arguments)
    traced = time.perf_counter()
    program = lowered.compile()
    done = time.perf_counter()
    # Equinox wraps the compiled program.
    memory = getattr(program, "compiled", program).memory_analysis()
    temp_bytes = None if memory is None else int(memory.temp_size_in_bytes)
    return program, traced - start, done - traced, temp_bytes


def prepare(training: Training) -> Step:
    """Traces and compiles a step where that is possible, and takes the first three."""
    figures: tuple[Any, ...] = ()
    if hasattr(training.step, "lower"):
        _, *figures = compile_timed(training.step, *training.carry, *training.data)
    carry = training.carry

    def run(times: int = 1) -> Any:
        nonlocal carry
        for _ in range(times):
            *changed, loss = training.step(*carry, *training.data)
            carry = tuple(changed)
        training.wait((carry, loss))
        return loss

    losses = tuple(float(run()) for _ in range(3))
    figures = figures or (None, None, None)
    return Step(run, losses, training.parameters, *figures, queues=True)
