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
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import rich.console

import jlayers as jl
from jlayers import training

from .frameworks.lax.train import mlp_step
from .frameworks.optax_step import cross_entropy
from .noise import mark, share_of_others
from .questions import Answer, Question

TX = optax.adam(1e-3)
BATCH = 32
# Steps between two checkpoints (one and a half seconds), and between two records.
SAVE_EVERY, LOG_EVERY = 5000, 100
# In a call that is timed: many, so that its start and its end, where it saves, hardly count.
STEPS = 10_000
# Calls of each loop in a process, at any budget, and processes: how a process' memory is laid out
# makes a loop a few percent faster or slower for as long as it lives.
CALLS, PROCESSES = 5, 6
ROOT = pathlib.Path(__file__).parents[1]


class Size(NamedTuple):
    """The size of an MLP: inputs, then the features of each layer."""

    inputs: int
    features: tuple[int, ...]


SMALL = Size(784, (128, 128, 10))


def model_of(size: Size) -> jl.Layer:
    *hidden, classes = size.features
    layers = [(jl.Dense(features), jax.nn.relu) for features in hidden]
    return jl.serial(*itertools.chain(*layers), jl.Dense(classes))


def batches(size: Size, count: int = 128) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)

    def batch() -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((BATCH, size.inputs), np.float32)
        return x, rng.integers(0, size.features[-1], BATCH, np.int32)

    return [batch() for _ in range(count)]


bare_step = mlp_step(TX)


class Bare:
    """The loop written by hand: it donates, and reads no loss."""

    def __init__(self, size: Size, data: list[Any]):
        params, _ = model_of(size).init(jax.random.key(0), jl.spec((BATCH, size.inputs)))
        self.params, self.moments, self.data = params, TX.init(params), data

    def __call__(self, steps: int) -> Any:
        params, moments = self.params, self.moments
        for x, labels in itertools.islice(itertools.cycle(self.data), steps):
            params, moments, _ = bare_step(params, moments, x, labels)
        self.params, self.moments = jax.block_until_ready((params, moments))


class Fit:
    """``fit``, one call after another, with a step that is compiled once.

    Args:
      everything: whether with a progress bar, and a log and checkpoints in ``folder``.
      options: of ``fit``.
    """

    def __init__(
        self, size: Size, data: list[Any], folder: pathlib.Path, everything: bool, **options: Any
    ):
        self.step = training.train_step(model_of(size), cross_entropy, TX)
        self.state = self.step.start(jax.random.key(0), jl.spec((BATCH, size.inputs)))
        self.data, self.folder, self.everything, self.taken = data, folder, everything, 0
        self.options = {"log_every": LOG_EVERY, "progress": False, **options}

    def __call__(self, steps: int) -> None:
        self.taken += steps
        options = self.options | (self._all() if self.everything else {})
        fitted = training.fit(self.step, self.state, self.data, steps=self.taken, **options)
        self.state = jax.block_until_ready(fitted.run)

    def _all(self) -> dict[str, Any]:
        # A new folder: fit would resume from a checkpoint.
        folder = self.folder / f"until_{self.taken}"
        terminal = rich.console.Console(file=io.StringIO(), force_terminal=True, width=100)
        return {
            "progress": training.Progress(self.taken, console=terminal),
            "callbacks": [training.json_lines(folder / "log.jsonl")],
            "checkpoints": training.CheckpointManager(folder / "checkpoints"),
            "checkpoint_every": SAVE_EVERY,
        }


def in_turns(
    loops: dict[str, Callable[[int], Any]], steps: int, calls: int
) -> dict[str, list[float]]:
    """Seconds of calls that take so many steps; each round has a new random order."""
    order, names = random.Random(0), list(loops)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(calls):
        order.shuffle(names)
        for name in names:
            gc.collect()
            start = time.perf_counter()
            loops[name](steps)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def overhead_seconds(size: Size, steps: int, calls: int) -> dict[str, list[float]]:
    """Seconds of calls in this process, after a check that all loops give the same bits."""
    data = batches(size)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        loops = {
            "fit": Fit(size, data, folder, everything=True),
            "fit with metrics alone": Fit(size, data, folder, everything=False),
            "bare": Bare(size, data),
        }
        same_after(loops, steps)
        return in_turns(loops, steps, calls)


def _microseconds(seconds: dict[str, list[float]], steps: int) -> str:
    """Of a step, for each loop."""
    texts = (f"{name} {1e6 * median(s) / steps:.1f} us" for name, s in seconds.items())
    return ", ".join(texts)


def overhead(
    budget: float, rounds: int, steps: int = STEPS, processes: int = PROCESSES, size: Size = SMALL
) -> Answer:
    """A step by ``fit`` with everything on, over one of the bare loop."""
    start, seconds = mark(), collections.defaultdict(list)
    numbers = map(str, (steps, min(rounds, CALLS), size.inputs, *size.features))
    command = [sys.executable, "-m", "bench.training_loop", *numbers]
    for _ in range(processes):
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        for name, values in json.loads(done.stdout.splitlines()[-1]).items():
            seconds[name] += values
    bare = seconds["bare"]
    ratio, alone = (median(seconds[name]) / median(bare) for name in list(seconds)[:2])
    return Answer(
        f"a step by fit, progress bar, log and checkpoints on, over the bare loop: {steps} steps,"
        f" {processes} processes",
        f"{ratio:.3f}x; {alone:.3f}x with metrics alone ({_microseconds(seconds, steps)})",
        "1.03x",
        ratio <= 1.03,
        dict(seconds),
        share_of_others(start),
    )


def many(budget: float, rounds: int, steps: int = STEPS, size: Size = SMALL) -> Answer:
    """32 steps in a call, against the bare loop."""
    data = batches(size)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        loops = {
            "fit": Fit(size, data, folder, everything=True, steps_per_call=32),
            "bare": Bare(size, data),
        }
        same_after(loops, steps)
        start = mark()
        seconds = in_turns(loops, steps, min(rounds, CALLS))
        others = share_of_others(start)
    faster = median(seconds["bare"]) / median(seconds["fit"])
    return Answer(
        f"fit with 32 steps in a call, all on, against the bare loop: the same bits, {steps} steps",
        f"{faster:.2f}x as fast ({_microseconds(seconds, steps)})",
        "1.15x as fast",
        faster >= 1.15,
        seconds,
        others,
    )


def same_after(loops: dict[str, Any], steps: int) -> None:
    """All loops take their first steps, which must give the same bits.

    Raises:
      AssertionError: where a parameter differs.
    """
    for loop in loops.values():
        loop(steps)
    bare = loops["bare"]
    for loop in loops.values():
        if loop is not bare:
            jax.tree.map(np.testing.assert_array_equal, loop.state.params, bare.params)
            moments = [jax.tree.leaves(tree) for tree in (loop.state.opt_state, bare.moments)]
            jax.tree.map(np.testing.assert_array_equal, *moments)


ROWS: dict[str, Question] = {"loop-overhead": overhead, "loop-32": many}


def main(steps: str, calls: str, inputs: str, *features: str) -> None:
    size = Size(int(inputs), tuple(map(int, features)))
    print(json.dumps(overhead_seconds(size, int(steps), int(calls))))


if __name__ == "__main__":
    main(*sys.argv[1:])
