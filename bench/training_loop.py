"""What does ``fit`` cost over a loop written by hand, in time and in memory?

    python -m bench.training_loop fit 200 1024 4096 4096 10

takes 200 steps of an MLP with 1024 inputs and layers of so many features by ``fit``, or by
``bare``, the loop written by hand, and prints the most memory that the process had, in bytes.
"""

import functools
import io
import itertools
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.console

import jlayers as jl
from jlayers import training
from jlayers.training.loop.flat import form_of
from jlayers.training.loop.program import program_of
from jlayers.training.loop.tally import start_tally

from .neighbours import mark, share_of_others
from .sequences import Row
from .timing import Timing, time_boxed

TX = optax.adam(1e-3)
BATCH = 32
# Between two checkpoints (one and a half seconds), and between two records.
SAVE_EVERY, LOG_EVERY = 5000, 100
# Of a call that is timed: its start and its end, where it saves, are a small part of it.
STEPS = 10_000
# Calls of each, whatever the budget: 3 percent do not show in less.
CALLS = 9
# Whose memory is looked at, of each.
PROCESSES = 3
ROOT = pathlib.Path(__file__).parents[1]


class Size(NamedTuple):
    """Of an MLP: inputs, then the features of each layer."""

    inputs: int
    features: tuple[int, ...]


SMALL, LARGE = Size(784, (128, 128, 10)), Size(1024, (4096, 4096, 10))
TINY = Size(64, (64, 64, 10))


def model_of(size: Size) -> jl.Layer:
    *hidden, classes = size.features
    layers = [(jl.Dense(features), jax.nn.relu) for features in hidden]
    return jl.serial(*itertools.chain(*layers), jl.Dense(classes))


def loss(logits: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def batches(size: Size, count: int = 128) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)

    def batch() -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((BATCH, size.inputs), np.float32)
        return x, rng.integers(0, size.features[-1], BATCH, np.int32)

    return [batch() for _ in range(count)]


@functools.partial(jax.jit, donate_argnums=(0, 1))
def bare_step(params: Any, moments: Any, x: jax.Array, labels: jax.Array) -> Any:
    """The step as one writes it by hand."""

    def value(params: Any) -> jax.Array:
        *hidden, last = params.values()
        y = x
        for layer in hidden:
            y = jax.nn.relu(y @ layer["kernel"] + layer["bias"])
        return loss(y @ last["kernel"] + last["bias"], labels)

    now, gradient = jax.value_and_grad(value)(params)
    updates, moments = TX.update(gradient, moments, params)
    return optax.apply_updates(params, updates), moments, now


class Bare:
    """The loop written by hand: it donates, and reads nothing."""

    def __init__(self, size: Size, data: list[Any]):
        params, _ = model_of(size).init(jax.random.key(0), jl.spec((BATCH, size.inputs)))
        self.params, self.moments, self.data = params, TX.init(params), data

    def __call__(self, steps: int) -> Any:
        params, moments = self.params, self.moments
        for x, labels in itertools.islice(itertools.cycle(self.data), steps):
            params, moments, _ = bare_step(params, moments, x, labels)
        self.params, self.moments = jax.block_until_ready((params, moments))


class Fit:
    """``fit``, call after call of it, for one step that is compiled once.

    Args:
      everything: with a progress bar, a log as JSON lines and checkpoints, in ``folder``.
      options: of ``fit``.
    """

    def __init__(
        self, size: Size, data: list[Any], folder: pathlib.Path, everything: bool, **options: Any
    ):
        self.step = training.train_step(model_of(size), loss, TX)
        self.run = self.step.start(jax.random.key(0), jl.spec((BATCH, size.inputs)))
        self.data, self.folder, self.everything, self.taken = data, folder, everything, 0
        self.options = {"log_every": LOG_EVERY, "progress": False, **options}

    def __call__(self, steps: int) -> None:
        self.taken += steps
        options = self.options | (self._all() if self.everything else {})
        fitted = training.fit(self.step, self.run, self.data, steps=self.taken, **options)
        self.run = jax.block_until_ready(fitted.run)

    def _all(self) -> dict[str, Any]:
        # A folder that had a checkpoint would be resumed from.
        folder = self.folder / f"until_{self.taken}"
        terminal = rich.console.Console(file=io.StringIO(), force_terminal=True, width=100)
        return {
            "progress": training.Progress(self.taken, console=terminal),
            "callbacks": [training.json_lines(folder / "log.jsonl")],
            "checkpoints": training.Checkpoints(folder / "checkpoints"),
            "checkpoint_every": SAVE_EVERY,
        }


def in_turns(
    loops: dict[str, Callable[[int], Any]], steps: int, budget: float, rounds: int
) -> tuple[dict[str, Timing], float | None]:
    """Whole calls of the loops for so many steps, and the share that other processes had."""
    start = mark()
    calls = {name: functools.partial(loop, steps) for name, loop in loops.items()}
    timings = time_boxed(calls, budget, rounds, least=min(rounds, CALLS))
    return timings, share_of_others(start)


def told(timings: dict[str, Timing], steps: int) -> str:
    """Microseconds a step of each."""
    texts = (f"{name} {1e6 * t.median / steps:.1f} us" for name, t in timings.items())
    return ", ".join(texts)


def overhead(budget: float, rounds: int, steps: int = STEPS) -> Row:
    """A step by ``fit`` with all that it does beside, over one of the bare loop."""
    data = batches(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        loops = {
            "fit": Fit(SMALL, data, place, everything=True),
            "fit with metrics alone": Fit(SMALL, data, place, everything=False),
            "bare": Bare(SMALL, data),
        }
        same_after(loops, steps)
        timings, others = in_turns(loops, steps, budget, rounds)
    ratio, alone = (timings[name].median / timings["bare"].median for name in list(loops)[:2])
    return Row(
        f"a step by fit, progress bar, log and checkpoints on, over the bare loop: {steps} steps",
        f"{ratio:.3f}x; {alone:.3f}x with metrics alone ({told(timings, steps)})",
        "1.03x",
        ratio <= 1.03,
        {name: timing._asdict() for name, timing in timings.items()},
        others,
    )


def many(budget: float, rounds: int, steps: int = STEPS) -> Row:
    """32 steps in a call, against the bare loop."""
    data = batches(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        loops = {
            "fit": Fit(SMALL, data, place, everything=True, steps_per_call=32),
            "bare": Bare(SMALL, data),
        }
        same_after(loops, steps)
        timings, others = in_turns(loops, steps, budget, rounds)
    faster = timings["bare"].median / timings["fit"].median
    return Row(
        f"fit with 32 steps in a call, all on, against the bare loop: the same bits, {steps} steps",
        f"{faster:.2f}x as fast ({told(timings, steps)})",
        "1.15x as fast",
        faster >= 1.15,
        {name: timing._asdict() for name, timing in timings.items()},
        others,
    )


def same_after(loops: dict[str, Any], steps: int) -> None:
    """All loops take their first steps, which leave the same bits.

    Raises:
      AssertionError: where a parameter differs.
    """
    for loop in loops.values():
        loop(steps)
    bare = loops["bare"]
    for loop in loops.values():
        if loop is not bare:
            jax.tree.map(np.testing.assert_array_equal, loop.run.params, bare.params)
            moments = [jax.tree.leaves(tree) for tree in (loop.run.opt_state, bare.moments)]
            jax.tree.map(np.testing.assert_array_equal, *moments)


def step_memory(budget: float, rounds: int, size: Size = LARGE, steps: int = 200) -> Row:
    """What the compiled step of ``fit`` needs, and what it adds to what a process has resident.

    Added to the same program's memory with a tiny model, which is Python, JAX and what compiling
    left: that is some 20 MB more with ``fit``, whatever the model.
    """
    compiled = program_bytes(_compiled_tick(size)) / program_bytes(_compiled_bare(size))
    most: dict[str, list[int]] = {}
    start = mark()
    for _ in range(min(rounds, PROCESSES)):
        # In turns, so that what else the system keeps in memory is alike.
        for which in ("fit", "bare"):
            for name, its in (("", size), (", tiny model", TINY)):
                most.setdefault(which + name, []).append(most_resident(which, its, steps))
    others = share_of_others(start)
    fit, fit_tiny, bare, bare_tiny = (statistics.median(values) for values in most.values())
    parameters = jl.summary(model_of(size), jl.spec((BATCH, size.inputs))).parameters
    added = (fit - fit_tiny) / (bare - bare_tiny)
    return Row(
        f"memory of fit over the bare loop, {parameters / 1e6:.0f} M parameters: of the compiled"
        f" step; added to a process that takes {steps}",
        f"{compiled:.4f}x; {added:.3f}x (whole processes {fit / 1e6:.0f} and {bare / 1e6:.0f} MB,"
        f" with a tiny model {fit_tiny / 1e6:.0f} and {bare_tiny / 1e6:.0f} MB)",
        "1.02x",
        max(compiled, added) <= 1.02,
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
        begun = run, start_tally(metrics, 0)
        forms.append(form_of(begun))
        return forms[-1].flat(begun)

    leaves = jax.eval_shape(leaves_of, run)
    return program.tick(forms[-1]).lower(leaves, batch).compile()


def _compiled_bare(size: Size) -> Any:
    x = jl.spec((BATCH, size.inputs))
    params, _ = jax.eval_shape(model_of(size).init, jax.random.key(0), x)
    moments = jax.eval_shape(TX.init, params)
    return bare_step.lower(params, moments, x, jl.spec((BATCH,), jnp.int32)).compile()


def most_resident(which: str, size: Size, steps: int) -> int:
    """Bytes, of a fresh process that takes so many steps.

    Raises:
      CalledProcessError: where the process fails.
    """
    sizes = map(str, (size.inputs, *size.features))
    command = [sys.executable, "-m", "bench.training_loop", which, str(steps), *sizes]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return int(done.stdout.split()[-1])


def main(which: str, steps: str, inputs: str, *features: str) -> None:
    size = Size(int(inputs), tuple(map(int, features)))
    data = batches(size, 8)
    with tempfile.TemporaryDirectory() as folder:
        loop = Bare(size, data) if which == "bare" else Fit(size, data, pathlib.Path(folder), False)
        loop(int(steps))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
