"""What does ``fit`` cost over a loop written by hand, in time?

    python -m bench.training_loop 10000 5 784 128 128 10

times 5 calls of 10,000 steps of an MLP with 784 inputs and layers of these features, in turns: by
``fit`` with everything on, by ``fit`` with metrics alone and by the loop written by hand ("bare").
It prints the seconds as JSON.
"""

import collections
import gc
import io
import itertools
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import numpy as np
import optax
import rich.console

import jlayers as jl
from jlayers import training

from .frameworks.jlayers.models import mlp
from .frameworks.lax.train import mlp_step
from .frameworks.optax_step import cross_entropy
from .frameworks.sizes import Perceptron
from .frameworks.weights import mlp_batches
from .noise import mark, share_of_others
from .questions import Answer, Question

TX = optax.adam(1e-3)
# Steps between two checkpoints (one and a half seconds), and between two records.
SAVE_EVERY, LOG_EVERY = 5000, 100
# In a call that is timed: many, so that its start and its end, where it saves, hardly count.
STEPS = 10_000
# Calls of each loop in a process, at any budget, and processes: how a process' memory is laid out
# makes a loop a few percent faster or slower for as long as it lives.
CALLS, PROCESSES = 5, 6
ROOT = pathlib.Path(__file__).parents[1]
MLP = Perceptron()
Batches = list[tuple[np.ndarray, np.ndarray]]
Seconds = dict[str, list[float]]

bare_step = mlp_step(TX)


def input_spec(size: Perceptron) -> Any:
    return jl.spec((size.batch, size.inputs))


def batches(size: Perceptron, count: int = 128) -> Batches:
    return list(zip(*mlp_batches(size, count), strict=True))


class Bare:
    """The loop written by hand: it donates, and reads no loss."""

    def __init__(self, size: Perceptron, data: Batches):
        params, _ = mlp(size).init(jax.random.key(0), input_spec(size))
        self.params, self.moments, self.data = params, TX.init(params), data

    def __call__(self, steps: int) -> None:
        params, moments = self.params, self.moments
        for x, labels in itertools.islice(itertools.cycle(self.data), steps):
            params, moments, _ = bare_step(params, moments, x, labels)
        self.params, self.moments = jax.block_until_ready((params, moments))


class Fit:
    """``fit``, one call after another, with a step that is compiled once.

    Args:
      folder: for a log and checkpoints; with a progress bar everything is on then.
      options: of ``fit``.
    """

    def __init__(
        self, size: Perceptron, data: Batches, folder: pathlib.Path | None = None, **options: Any
    ):
        self.step = training.train_step(mlp(size), cross_entropy, TX)
        self.state = self.step.start(jax.random.key(0), input_spec(size))
        self.data, self.folder, self.taken = data, folder, 0
        self.options = {"log_every": LOG_EVERY, "progress": False, **options}

    def __call__(self, steps: int) -> None:
        self.taken += steps
        options = self.options | ({} if self.folder is None else self._everything(self.folder))
        fitted = training.fit(self.step, self.state, self.data, steps=self.taken, **options)
        self.state = jax.block_until_ready(fitted.state)

    def _everything(self, folder: pathlib.Path) -> dict[str, Any]:
        # A new folder: fit would resume from a checkpoint.
        folder = folder / f"until_{self.taken}"
        terminal = rich.console.Console(file=io.StringIO(), force_terminal=True, width=100)
        return {
            "progress": training.Progress(self.taken, console=terminal),
            "hooks": [training.json_lines(folder / "log.jsonl")],
            "checkpoints": training.CheckpointManager(folder / "checkpoints"),
            "checkpoint_every": SAVE_EVERY,
        }


def in_turns(loops: dict[str, Callable[[int], Any]], steps: int, calls: int) -> Seconds:
    """Seconds of calls that take so many steps; each round has a new random order.

    Raises:
      AssertionError: where the loops do not give the same bits.
    """
    assert_same_bits(loops, steps)
    order, names = random.Random(0), list(loops)
    seconds: Seconds = {name: [] for name in loops}
    for _ in range(calls):
        order.shuffle(names)
        for name in names:
            gc.collect()
            start = time.perf_counter()
            loops[name](steps)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def assert_same_bits(loops: dict[str, Any], steps: int) -> None:
    """All loops take their first steps and must end with the parameters of "bare"."""
    for loop in loops.values():
        loop(steps)
    bare = loops["bare"]
    for loop in loops.values():
        if loop is not bare:
            jax.tree.map(np.testing.assert_array_equal, loop.state.params, bare.params)
            moments = [jax.tree.leaves(tree) for tree in (loop.state.opt_state, bare.moments)]
            jax.tree.map(np.testing.assert_array_equal, *moments)


def _microseconds(seconds: Seconds, steps: int) -> str:
    """The microseconds of a step, for each loop."""
    return ", ".join(f"{name} {1e6 * median(s) / steps:.1f} us" for name, s in seconds.items())


def overhead(
    budget: float, rounds: int, steps: int = STEPS, processes: int = PROCESSES, size: Any = MLP
) -> Answer:
    """A step by ``fit`` with everything on, over one of the bare loop."""
    start, seconds = mark(), collections.defaultdict(list)
    numbers = (steps, min(rounds, CALLS), size.inputs, *size.features, size.classes)
    command = [sys.executable, "-m", "bench.training_loop", *map(str, numbers)]
    for _ in range(processes):
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        for name, values in json.loads(done.stdout.splitlines()[-1]).items():
            seconds[name] += values
    others = share_of_others(start)
    ratio, alone, _ = (median(values) / median(seconds["bare"]) for values in seconds.values())
    question = "a step by fit, progress bar, log and checkpoints on, over the bare loop:"
    question += f" {steps} steps, {processes} processes"
    figure = f"{ratio:.3f}x; {alone:.3f}x with metrics alone ({_microseconds(seconds, steps)})"
    return Answer(question, figure, "1.03x", ratio <= 1.03, dict(seconds), others)


def many(budget: float, rounds: int, steps: int = STEPS, size: Perceptron = MLP) -> Answer:
    """32 steps in a call, against the bare loop."""
    data, start = batches(size), mark()
    with tempfile.TemporaryDirectory() as folder:
        fit = Fit(size, data, pathlib.Path(folder), steps_per_call=32)
        seconds = in_turns({"fit": fit, "bare": Bare(size, data)}, steps, min(rounds, CALLS))
    others = share_of_others(start)
    faster = median(seconds["bare"]) / median(seconds["fit"])
    question = "fit with 32 steps in a call, all on, against the bare loop: the same bits,"
    figure = f"{faster:.2f}x as fast ({_microseconds(seconds, steps)})"
    holds = faster >= 1.15
    return Answer(f"{question} {steps} steps", figure, "1.15x as fast", holds, seconds, others)


ROWS: dict[str, Question] = {"loop-overhead": overhead, "loop-32": many}


def main(steps: int, calls: int, inputs: int, *features: int) -> None:
    size = Perceptron(inputs=inputs, features=features[:-1], classes=features[-1])
    data = batches(size)
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            "fit": Fit(size, data, pathlib.Path(folder)),
            "fit with metrics alone": Fit(size, data),
            "bare": Bare(size, data),
        }
        print(json.dumps(in_turns(loops, steps, calls)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
