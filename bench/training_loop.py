"""What does ``fit`` cost over a loop written by hand, in time?

    python -m bench.training_loop 10000 5 784 128 128 10

times 5 calls of 10,000 steps of an MLP with 784 inputs and layers of so many features, by ``fit``
with all on, by ``fit`` with metrics alone and by the loop written by hand, in turns, and prints the
seconds as JSON.
"""

import collections
import functools
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

from .neighbours import mark, share_of_others
from .sequences import Row

TX = optax.adam(1e-3)
BATCH = 32
# Between two checkpoints (one and a half seconds), and between two records.
SAVE_EVERY, LOG_EVERY = 5000, 100
# Of a call that is timed: its start and its end, where it saves, are a small part of it.
STEPS = 10_000
# Calls of each, whatever the budget, and processes that take so many: where its memory lies makes
# a loop a few percent faster or slower as long as a process lives.
CALLS, PROCESSES = 5, 6
ROOT = pathlib.Path(__file__).parents[1]


class Size(NamedTuple):
    """Of an MLP: inputs, then the features of each layer."""

    inputs: int
    features: tuple[int, ...]


SMALL = Size(784, (128, 128, 10))


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
        self.run = jax.block_until_ready(fitted.state)

    def _all(self) -> dict[str, Any]:
        # A folder that had a checkpoint would be resumed from.
        folder = self.folder / f"until_{self.taken}"
        terminal = rich.console.Console(file=io.StringIO(), force_terminal=True, width=100)
        return {
            "progress": training.Progress(self.taken, console=terminal),
            "hooks": [training.json_lines(folder / "log.jsonl")],
            "checkpoints": training.CheckpointManager(folder / "checkpoints"),
            "checkpoint_every": SAVE_EVERY,
        }


def in_turns(
    loops: dict[str, Callable[[int], Any]], steps: int, calls: int
) -> dict[str, list[float]]:
    """Seconds of whole calls of the loops for so many steps, the order drawn anew in each round."""
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
    """Seconds of calls in this process, after calls that leave the same bits."""
    data = batches(size)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        loops = {
            "fit": Fit(size, data, place, everything=True),
            "fit with metrics alone": Fit(size, data, place, everything=False),
            "bare": Bare(size, data),
        }
        same_after(loops, steps)
        return in_turns(loops, steps, calls)


def told(seconds: dict[str, list[float]], steps: int) -> str:
    """Microseconds a step of each."""
    texts = (f"{name} {1e6 * median(s) / steps:.1f} us" for name, s in seconds.items())
    return ", ".join(texts)


def overhead(
    budget: float, rounds: int, steps: int = STEPS, processes: int = PROCESSES, size: Size = SMALL
) -> Row:
    """A step by ``fit`` with all that it does beside, over one of the bare loop."""
    start, seconds = mark(), collections.defaultdict(list)
    numbers = map(str, (steps, min(rounds, CALLS), size.inputs, *size.features))
    command = [sys.executable, "-m", "bench.training_loop", *numbers]
    for _ in range(processes):
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        for name, values in json.loads(done.stdout.splitlines()[-1]).items():
            seconds[name] += values
    bare = seconds["bare"]
    ratio, alone = (median(seconds[name]) / median(bare) for name in list(seconds)[:2])
    return Row(
        f"a step by fit, progress bar, log and checkpoints on, over the bare loop: {steps} steps,"
        f" {processes} processes",
        f"{ratio:.3f}x; {alone:.3f}x with metrics alone ({told(seconds, steps)})",
        "1.03x",
        ratio <= 1.03,
        dict(seconds),
        share_of_others(start),
    )


def many(budget: float, rounds: int, steps: int = STEPS, size: Size = SMALL) -> Row:
    """32 steps in a call, against the bare loop."""
    data = batches(size)
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        loops = {
            "fit": Fit(size, data, place, everything=True, steps_per_call=32),
            "bare": Bare(size, data),
        }
        same_after(loops, steps)
        start = mark()
        seconds = in_turns(loops, steps, min(rounds, CALLS))
        others = share_of_others(start)
    faster = median(seconds["bare"]) / median(seconds["fit"])
    return Row(
        f"fit with 32 steps in a call, all on, against the bare loop: the same bits, {steps} steps",
        f"{faster:.2f}x as fast ({told(seconds, steps)})",
        "1.15x as fast",
        faster >= 1.15,
        seconds,
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


def main(steps: str, calls: str, inputs: str, *features: str) -> None:
    size = Size(int(inputs), tuple(map(int, features)))
    print(json.dumps(overhead_seconds(size, int(steps), int(calls))))


if __name__ == "__main__":
    main(*sys.argv[1:])
