"""How much memory do steps by ``fit`` take, against steps written by hand?

    python -m bench.training_memory fit 200 1024 4096 4096 10

takes 200 steps of an MLP with 1024 inputs and layers of so many features by ``fit``, or by
``bare``, and prints the most memory that the process had resident, in bytes: while it took them,
and ever.
"""

import pathlib
import subprocess
import sys
import tempfile
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

import jlayers as jl
from jlayers import training
from jlayers.training.loop.metrics import empty_accumulator
from jlayers.training.loop.program import form_of, program_of

from .neighbours import mark, share_of_others
from .resident import forget_peak, peak
from .sequences import Row
from .training_loop import BATCH, ROOT, TX, Bare, Fit, Size, bare_step, batches, loss, model_of

LARGE = Size(1024, (4096, 4096, 10))
# Whose memory is looked at, of each, and the steps before it is looked at: the first compile.
PROCESSES, FIRST = 5, 20


def step_memory(budget: float, rounds: int, size: Size = LARGE, steps: int = 200) -> Row:
    """What the compiled step of ``fit`` needs, and what processes have resident that take steps."""
    compiled = program_bytes(_compiled_tick(size)) / program_bytes(_compiled_bare(size))
    most: dict[str, list[int]] = {}
    start = mark()
    for _ in range(min(rounds, PROCESSES)):
        # In turns, so that what else the system keeps in memory is alike.
        for which in ("fit", "bare"):
            for when, found in zip(("", ", ever"), most_resident(which, size, steps), strict=True):
                most.setdefault(which + when, []).append(found)
    others = share_of_others(start)
    fit, fit_ever, bare, bare_ever = (median(values) for values in most.values())
    parameters = jl.summary(model_of(size), jl.spec((BATCH, size.inputs))).parameters
    return Row(
        f"memory of fit over the bare loop, {parameters / 1e6:.0f} M parameters: of the compiled"
        f" step; of a process while it takes {steps}",
        f"{compiled:.4f}x; {fit / bare:.3f}x ({fit / 1e6:.0f} and {bare / 1e6:.0f} MB;"
        f" with the first {FIRST} steps, which compile, {fit_ever / 1e6:.0f} and"
        f" {bare_ever / 1e6:.0f} MB)",
        "1.02x",
        max(compiled, fit / bare) <= 1.02,
        most,
        others,
    )


def program_bytes(compiled: Any) -> int:
    """Of arguments, results and temporaries; what is donated counts once."""
    memory = compiled.memory_analysis()
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return int(own - memory.alias_size_in_bytes)


def _compiled_tick(size: Size) -> Any:
    step = training.train_step(model_of(size), loss, TX)
    batch = (jl.spec((BATCH, size.inputs)), jl.spec((BATCH,), jnp.int32))
    run = jax.eval_shape(lambda key: step.start(key, batch[0]), jax.random.key(0))
    program = program_of(step, True, True, False)
    _, metrics, _ = jax.eval_shape(program.guarded, run, batch, jl.spec((), bool))
    forms = []

    def leaves_of(run: Any) -> list[Any]:
        begun = run, empty_accumulator(metrics, 0)
        forms.append(form_of(begun))
        return forms[-1].flat(begun)

    leaves = jax.eval_shape(leaves_of, run)
    return program.tick(forms[-1]).lower(leaves, batch).compile()


def _compiled_bare(size: Size) -> Any:
    x = jl.spec((BATCH, size.inputs))
    params, _ = jax.eval_shape(model_of(size).init, jax.random.key(0), x)
    moments = jax.eval_shape(TX.init, params)
    return bare_step.lower(params, moments, x, jl.spec((BATCH,), jnp.int32)).compile()


def most_resident(which: str, size: Size, steps: int) -> list[int]:
    """Bytes of a fresh process: while it takes so many steps, and ever.

    Raises:
      CalledProcessError: where the process fails.
    """
    sizes = map(str, (size.inputs, *size.features))
    command = [sys.executable, "-m", "bench.training_memory", which, str(steps), *sizes]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return [int(number) for number in done.stdout.split()[-2:]]


def main(which: str, steps: str, inputs: str, *features: str) -> None:
    size = Size(int(inputs), tuple(map(int, features)))
    data = batches(size, 8)
    with tempfile.TemporaryDirectory() as folder:
        loop = Bare(size, data) if which == "bare" else Fit(size, data, pathlib.Path(folder), False)
        loop(FIRST)
        before = peak()
        forget_peak()
        loop(int(steps))
    during = peak()
    print(during, max(before, during))


if __name__ == "__main__":
    main(*sys.argv[1:])
