"""How much memory do steps by ``fit`` take, against steps written by hand?

    python -m soak.step_memory fit 200 1024 4096 4096 10

takes 200 steps of an MLP with 1024 inputs and layers of these features by ``fit``, or by ``bare``,
and prints the most memory that the process had resident, in bytes: while it took them, and ever.
"""

import sys
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jlayers as jl
from bench.frameworks.optax_step import cross_entropy
from bench.frameworks.sizes import Perceptron
from bench.training_loop import TX, Bare, Fit, bare_step, batches, input_spec, mlp
from jlayers import training
from jlayers.training.loop.metrics import empty_accumulator
from jlayers.training.loop.program import form_of, program_of

from . import run_program
from .resident import peak, reset_peak

LARGE = Perceptron(inputs=1024, features=(4096, 4096), classes=10)
# Processes of each loop, and their first steps, which compile and are not part of the comparison.
PROCESSES, FIRST = 5, 20
BOUND = 1.02


class Memory(NamedTuple):
    """Ratios of ``fit`` to the bare loop, and both as text."""

    compiled: float
    resident: float
    question: str
    figure: str

    @property
    def holds(self) -> bool:
        return max(self.compiled, self.resident) <= BOUND


def step_memory(size: Perceptron = LARGE, steps: int = 200, processes: int = PROCESSES) -> Memory:
    """What the compiled step needs, and what processes have resident that take steps."""
    compiled = program_bytes(_compiled_fit(size)) / program_bytes(_compiled_bare(size))
    most: dict[str, list[int]] = {}
    for _ in range(processes):
        # In turns, so that the rest of the system is the same for both.
        for which in ("fit", "bare"):
            for when, found in zip(("", ", ever"), most_resident(which, size, steps), strict=True):
                most.setdefault(which + when, []).append(found)
    fit, fit_ever, bare, bare_ever = (median(values) for values in most.values())
    parameters = jl.summary(mlp(size), input_spec(size)).parameters
    return Memory(
        compiled,
        fit / bare,
        f"memory of fit over the bare loop, {parameters / 1e6:.0f} M parameters: of the compiled"
        f" step; of a process while it takes {steps}",
        f"{compiled:.4f}x; {fit / bare:.3f}x ({fit / 1e6:.0f} and {bare / 1e6:.0f} MB;"
        f" with the first {FIRST} steps, which compile, {fit_ever / 1e6:.0f} and"
        f" {bare_ever / 1e6:.0f} MB)",
    )


def program_bytes(compiled: Any) -> int:
    """Bytes of arguments, results and temporaries; what is donated counts once."""
    memory = compiled.memory_analysis()
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return int(own - memory.alias_size_in_bytes)


def _compiled_fit(size: Perceptron) -> Any:
    step = training.train_step(mlp(size), cross_entropy, TX)
    batch = (input_spec(size), jl.spec((size.batch,), jnp.int32))
    run = jax.eval_shape(lambda key: step.start(key, batch[0]), jax.random.key(0))
    program = program_of(step, True, True, False)
    _, metrics, _ = jax.eval_shape(program.guarded, run, batch, jl.spec((), bool))
    forms = []

    def leaves_of(run: Any) -> list[Any]:
        started = run, empty_accumulator(metrics)
        forms.append(form_of(started))
        return forms[-1].flat(started)

    leaves = jax.eval_shape(leaves_of, run)
    return program.tick(forms[-1]).lower(leaves, batch).compile()


def _compiled_bare(size: Perceptron) -> Any:
    x = input_spec(size)
    params, _ = jax.eval_shape(mlp(size).init, jax.random.key(0), x)
    moments = jax.eval_shape(TX.init, params)
    return bare_step.lower(params, moments, x, jl.spec((size.batch,), jnp.int32)).compile()


def most_resident(which: str, size: Perceptron, steps: int) -> list[int]:
    """Bytes of a fresh process: while it takes so many steps, and over its lifetime.

    Raises:
      CalledProcessError: where the process fails.
    """
    done = run_program("step_memory", which, steps, size.inputs, *size.features, size.classes)
    done.check_returncode()
    return [int(number) for number in done.stdout.split()[-2:]]


def main(which: str, steps: str, inputs: str, *features: str) -> None:
    *hidden, classes = map(int, features)
    size = Perceptron(inputs=int(inputs), features=tuple(hidden), classes=classes)
    loop = {"bare": Bare, "fit": Fit}[which](size, batches(size, 8))
    loop(FIRST)
    before = peak()
    reset_peak()
    loop(int(steps))
    during = peak()
    print(during, max(before, during))


if __name__ == "__main__":
    main(*sys.argv[1:])
