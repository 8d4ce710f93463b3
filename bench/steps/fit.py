"""What does a step of a small MLP cost in the loop that each library's users run?

jlayers and Keras have a ``fit``. The loops for Equinox and Flax are those of their documentation,
except for the data, which is the same NumPy arrays for all, and for the output, which is discarded.
``lax`` is a loop written by hand: jitted, donating, its loss read every hundred steps.
"""

import contextlib
import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ..frameworks import part
from ..frameworks.sizes import Perceptron
from ..frameworks.step import Loop, Step
from ..frameworks.weights import draw, mlp_batches

# Milliseconds of so many steps are microseconds of one.
STEPS = 1000
# Steps between two lines of metrics, and between two losses that are compared.
EVERY, JUDGED = 100, 32


class Data(NamedTuple):
    """Rows, and the same as batches."""

    x: np.ndarray
    labels: np.ndarray
    batches: list[tuple[np.ndarray, np.ndarray]]


# (data, steps between two losses) to these losses.
Run = Callable[[Data, int], list[float]]


def builders(size: Perceptron = Perceptron(), steps: int = STEPS) -> dict[str, Any]:
    """Names to what builds a ``Step``."""
    runs = {name: partial(_by_steps, name, size) for name in ("lax", "linen", "nnx", "equinox")}
    for name in ("jlayers", "keras"):
        runs[name] = partial(_fit, name, size, 1)
        runs[f"{name}, 32 steps a call"] = partial(_fit, name, size, 32)
    return {name: partial(_prepared, make, size, steps) for name, make in runs.items()}


def _fit(name: str, size: Perceptron, steps_per_call: int) -> Run:
    run: Run = part(name, "train").fit_loop(size, draw("mlp", size), steps_per_call)
    return _without_output(run)


def _by_steps(name: str, size: Perceptron) -> Run:
    """A usual loop: a step for each batch, and every few steps its loss is printed."""
    own: Loop = part(name, "train").documented_loop(size, draw("mlp", size))

    carry = own.carry

    def run(data: Data, every: int) -> list[float]:
        nonlocal carry
        losses = []
        for step, (x, labels) in enumerate(data.batches, 1):
            carry, loss = own.step(carry, x, labels)
            if step % every == 0:
                losses.append(own.read(loss).item())
                print(f"{step=}, loss={losses[-1]}")
        jax.block_until_ready(jax.tree.leaves(carry))
        return losses

    return _without_output(run)


def _without_output(run: Run) -> Run:
    def quiet(data: Data, every: int) -> list[float]:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            return run(data, every)

    return quiet


def _prepared(make: Callable[[], Run], size: Perceptron, steps: int) -> Step:
    """Its first losses are the means over three times 32 steps."""
    run = make()
    first = tuple(float(np.mean(run(_data(size, JUDGED, seed), 1))) for seed in range(3))
    data = _data(size, steps, 3)
    run(data, EVERY)  # compiles what depends on the number of steps
    arrays = [array for part in draw("mlp", size).values() for array in part.values()]
    return Step(lambda: run(data, EVERY), first, sum(array.size for array in arrays))


# The same arrays for all.
@lru_cache(maxsize=4)
def _data(size: Perceptron, steps: int, seed: int) -> Data:
    x, labels = mlp_batches(size, steps, seed)
    batches: Any = list(zip(x, labels, strict=True))
    return Data(x.reshape(-1, size.inputs), labels.reshape(-1), batches)
