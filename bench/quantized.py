"""What does a step cost with weights of 8 and 4 bits, and what do they weigh?

    python -m bench.quantized                             # a transformer's token, and Dense layers
    python -m bench.quantized --width 2048 --blocks 4 --batch 1 8

A model with float32 weights against the same one quantised, in turns: a token of a transformer by
``jl.stream``, with its blocks one after the other and by ``repeat``, and Dense layers on a few
rows. Each quantised model is checked before it is timed, against the float32 model with the
weights that it stands for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jlayers as jl
from jlayers import transforms

from .frameworks.jlayers.models import block, with_blocks
from .frameworks.sizes import Transformer

Tree = Any
FORMS: dict[str, dict[str, Any]] = {
    "int8": {"dtype": "int8"},
    "int8, int8 activations": {"dtype": "int8", "activations": "int8"},
    "int8, groups of 64": {"dtype": "int8", "group_size": 64},
    "int4": {"dtype": "int4"},
    "float8_e4m3fn": {"dtype": "float8_e4m3fn"},
}
# Of the largest output: sums in another order, and activations of 8 bits.
TOLERANCE = {None: 1e-3, "int8": 0.1}
# Steps in the cache: short, since the weights are the question.
HELD = 64


# One step, whose output is compared.
Run = Callable[[], jax.Array]
# Of parameters and state, a step with them.
Bind = Callable[[Tree, Tree], Run]


class Program(NamedTuple):
    """A step of a form.

    Attributes:
      bytes: of parameters and state.
    """

    run: Run
    bytes: int


class Case(NamedTuple):
    """A model, its input, and how its step is built."""

    model: jl.Layer
    x: jax.Array
    build: Callable[[jl.Layer, jax.Array], Bind]


def applied(model: jl.Layer, x: jax.Array) -> Bind:
    step = jax.jit(lambda params, state: model.apply(params, state, x)[0])
    return lambda params, state: lambda: jax.block_until_ready(step(params, state))


def decoding(model: jl.Layer, ids: jax.Array) -> Bind:
    """The token after a prompt, again and again: the cache is not kept."""
    start, step = jl.stream(model, capacity=2 * HELD)
    prompt = jnp.tile(ids, (1, HELD))
    read = jax.jit(lambda p, s: step(p, s, start(p, s, prompt[:, :1]), prompt)[1])
    take = jax.jit(lambda p, s, carry: step(p, s, carry, ids))

    def bind(params: Tree, state: Tree) -> Run:
        carry = read(params, state)
        return lambda: jax.block_until_ready(take(params, state, carry))[0]

    return bind


def size_of(*trees: Tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(trees))


def cases(width: int, blocks: int, batch: int) -> dict[str, Case]:
    size = Transformer(batch=batch, steps=HELD, width=width, heads=width // 64, blocks=blocks)
    tokens = jl.Embedding(size.vocabulary, size.width)
    ids = jnp.arange(batch, dtype=jnp.int32)[:, None]
    dense: dict[str, jl.Layer] = {}
    for i in range(3 * blocks):
        # Normalised, so that no signal explodes.
        dense |= {f"norm_{i}": jl.LayerNorm(), f"dense_{i}": jl.Dense(2 * width)}
    rows = jax.random.normal(jax.random.key(1), (batch, 2 * width))
    return {
        f"{3 * blocks} Dense({2 * width}), {batch} rows": Case(jl.serial(**dense), rows, applied),
    } | {
        f"token, {blocks} blocks of {width} by {name}, batch {batch}": Case(
            with_blocks(size, name == "repeat", block(size), tokens=tokens), ids, decoding
        )
        for name in ("serial", "repeat")
    }


def programs(case: Case, forms: Sequence[str]) -> dict[str, Program]:
    """The float32 program, and the quantised ones.

    Raises:
      AssertionError: for one that computes something else.
    """
    params, state = jax.jit(case.model.init)(jax.random.key(0), case.x)
    plain = case.build(case.model, case.x)
    made = {"float32": Program(plain(params, state), size_of(params, state))}
    for name in forms:
        small = transforms.quantize(case.model, **FORMS[name])
        own = transforms.quantize_params(small, params, state)
        made[name] = Program(case.build(small, case.x)(*own), size_of(*own))
        expected = plain(*transforms.merge(small, *own)[1:])()
        off = float(jnp.abs(made[name].run() - expected).max() / jnp.abs(expected).max())
        assert off < TOLERANCE[FORMS[name].get("activations")], f"{name}: off by {off:.1e}"
    return made


def timed(made: Mapping[str, Program], seconds: float) -> dict[str, list[float]]:
    """Seconds of calls in turns."""
    times: dict[str, list[float]] = {name: [] for name in made}
    end = time.perf_counter() + seconds
    while not all(times.values()) or time.perf_counter() < end:
        for name, program in made.items():
            start = time.perf_counter()
            program.run()
            times[name].append(time.perf_counter() - start)
    return times


def table(title: str, made: Mapping[str, Program], times: Mapping[str, list[float]]) -> str:
    """A row for each form: bytes, medians and the least times, each against float32."""
    lines = [
        f"| {title} | MB | x float32 | median ms | x float32 | least ms | x float32 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, seconds in times.items():
        cells = [f"{made[name].bytes / 1e6:.1f}", ratio(made[name].bytes, made["float32"].bytes)]
        for of in (statistics.median, min):
            cells += [f"{of(seconds) * 1e3:.2f}", ratio(of(seconds), of(times["float32"]))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(value: float, whole: float) -> str:
    return f"{value / whole:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each table")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    options = parser.parse_args()
    for batch in options.batch:
        for title, case in cases(options.width, options.blocks, batch).items():
            made = programs(case, options.forms)
            print(table(title, made, timed(made, options.seconds)), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
