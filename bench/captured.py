"""What capturing all blocks of a ``repeat`` costs a training step: ``python -m bench.captured``.

Forward and gradient of a transformer of 12 blocks, whose outputs all leave the program, against a
``lax.scan`` that is written by hand and returns them; beside it the step without captured values,
and one with statistics instead of them. All take turns, so that a busy machine slows all alike.
"""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import jlayers as jl
from jlayers.combinators.recomputation import stores_the_rest

BLOCKS, BATCH, STEPS, WIDTH, HEADS = 12, 8, 64, 128, 4
Step = Callable[[Any, jax.Array], Any]


def steps() -> tuple[dict[str, Step], Any, jax.Array]:
    """The compiled steps by name, their parameters and their input."""
    mlp = jl.serial(jl.Dense(4 * WIDTH), jax.nn.gelu, jl.Dense(WIDTH))
    block = jl.TransformerBlock(jl.SelfAttention(HEADS, causal=True), mlp)
    model = jl.serial(blocks=jl.repeat(block, BLOCKS), norm=jl.LayerNorm())
    x = jax.random.normal(jax.random.key(0), (BATCH, STEPS, WIDTH))
    params, _ = model.init(jax.random.key(1), x)

    def by_hand(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        def step(x: jax.Array, own: Any) -> tuple[jax.Array, jax.Array]:
            y, _ = block.apply(own, {}, x)
            return y, y

        # As repeat does it.
        step = jax.checkpoint(step, policy=stores_the_rest, prevent_cse=False)
        y, outputs = lax.scan(step, x, params["blocks"])
        return jl.LayerNorm().apply(params["norm"], {}, y)[0], outputs

    def captured(*patterns: str, **how: Any) -> Callable[[Any, jax.Array], Any]:
        looking = jl.capture(model, *patterns, **how)
        return lambda params, x: looking.apply(params, {}, x)[0]

    forward = {
        "by hand": by_hand,
        "captured": captured("blocks"),
        "statistics": captured("blocks", reduce=("mean", "std", "norm")),
        "nothing": lambda params, x: (model.apply(params, {}, x)[0], ()),
    }

    def step(run: Callable[[Any, jax.Array], Any]) -> Step:
        def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            y, values = run(params, x)
            return jnp.mean(y**2), values

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    return {name: step(run) for name, run in forward.items()}, params, x


def main(rounds: int = 40) -> None:
    """Prints the medians of each, and their ratios to those by hand.

    Beside the time it is the processor time of all threads, which depends less on what else runs.
    """
    compiled, params, x = steps()
    for step in compiled.values():
        jax.block_until_ready(step(params, x))
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in compiled}
    for turn in range(rounds):
        names = [*compiled] if turn % 2 else [*reversed(compiled)]
        for name in names:
            start = time.perf_counter(), time.process_time()
            jax.block_until_ready(compiled[name](params, x))
            end = time.perf_counter(), time.process_time()
            taken[name].append((end[0] - start[0], end[1] - start[1]))
    for name, own in taken.items():
        texts = []
        for kind, (times, others) in enumerate(
            zip(*map(_columns, (own, taken["by hand"])), strict=True)
        ):
            ratio = statistics.median(map(operator.truediv, times, others))
            texts.append(
                f"{1e3 * statistics.median(times):8.2f} ms{' of processors' * kind} {ratio:6.3f}"
            )
        print(f"{name:12}", *texts)


def _columns(rows: list[tuple[float, float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


if __name__ == "__main__":
    main()
