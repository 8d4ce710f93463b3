"""How do tracing and compiling grow with the number of blocks?

The gradient of ``serial`` of 10, 40 and 160 small blocks, and of ``repeat`` of 10, 100 and 1,000:
the first should cost the same for each block, the second the same altogether. The blocks are
residual, and normalised first. Written by hand in ``jax.numpy``, such blocks compile in a time that
grows with the square of their number (docs/notes/0016-first-step.md): the last row compares.

    python -m bench.growth serial 40

is a process of its own; it prints the seconds to trace and to compile as JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jlayers as jl

from .frameworks.lax.models import dense, layer_norm
from .frameworks.sizes import EPSILON
from .fresh import last_line
from .questions import Answer, Question

COUNTS = {"serial": (10, 40, 160), "repeat": (10, 100, 1000)}
RESIDUAL = 40  # blocks
PROCESSES = 5
WIDTH = 32
STAGES = ("trace", "compile")
# (kind, blocks) to the seconds of each stage.
Measure = Callable[[str, int], dict[str, float]]


def model(kind: str, count: int) -> jl.Layer:
    body = jl.serial(
        norm=jl.LayerNorm(epsilon=EPSILON),
        up=jl.Dense(WIDTH),
        gelu=jax.nn.gelu,
        down=jl.Dense(WIDTH),
    )
    block = jl.residual(body)
    if kind == "repeat":
        return jl.repeat(block, count)
    return jl.serial(**{f"blocks_{i}": block for i in range(count)})


def residual_by_hand(params: Any, x: jax.Array) -> jax.Array:
    """The residual blocks in plain ``jax.numpy``, with the same parameters."""
    for block in params.values():
        p = block["body"]
        x = x + dense(p["down"], jax.nn.gelu(dense(p["up"], layer_norm(p["norm"], x))))
    return x


def measure(kind: str, count: int) -> dict[str, float]:
    """Seconds in this process, which has traced nothing before but ``init``; nothing is run."""
    by_hand = kind == "by hand"
    made, x = model(kind, count), jl.spec((8, WIDTH))
    params, state = jax.eval_shape(made.init, jax.random.key(0), x)

    def loss(params: Any, x: Any) -> Any:
        return jnp.sum(residual_by_hand(params, x) if by_hand else made.apply(params, state, x)[0])

    start = time.perf_counter()
    traced = jax.jit(jax.grad(loss)).trace(params, x)
    middle = time.perf_counter()
    traced.lower().compile()
    return {"trace": middle - start, "compile": time.perf_counter() - middle}


def in_a_process(kind: str, count: int) -> dict[str, float]:
    seconds: dict[str, float] = json.loads(last_line("-m", "bench.growth", kind, str(count)))
    return seconds


def growth(
    kind: str,
    budget: float,
    rounds: int,
    counts: Sequence[int] = (),
    measure: Measure = in_a_process,
) -> Answer:
    """The counts in turns; the worse of the two stages is the figure.

    For ``serial``: a further block between the last two counts over one between the first two,
    so that what does not depend on the blocks does not hide a growth faster than theirs. For
    ``repeat``: the last count over the first.
    """
    counts = counts or COUNTS[kind]
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for _ in range(min(rounds, PROCESSES)):
        for count, own in found.items():
            own.append(measure(kind, count))
    medians = {
        stage: [statistics.median(each[stage] for each in own) for own in found.values()]
        for stage in STAGES
    }
    ratio = max(_growth(kind, counts, seconds) for seconds in medians.values())
    texts = [
        f"{count:,}: {trace:.2f} + {compiling:.2f} s"
        f" ({1e3 * trace / count:.3g} + {1e3 * compiling / count:.3g} ms a block)"
        for count, trace, compiling in zip(counts, *medians.values(), strict=True)
    ]
    of = (
        "a further block at the end over one at the start"
        if kind == "serial"
        else "last over first"
    )
    question = f"gradient of {kind} of small blocks, trace + compile: {of}"
    figure = f"{ratio:.2f}x ({'; '.join(texts)})"
    seconds = {str(count): own for count, own in found.items()}
    return Answer(question, figure, "1.5x", ratio <= 1.5, seconds)


def _growth(kind: str, counts: Sequence[int], seconds: Sequence[float]) -> float:
    if kind == "repeat":
        return seconds[-1] / seconds[0]
    (a, b, c), (x, y, z) = counts, seconds
    return ((z - y) / (c - b)) / max((y - x) / (b - a), 1e-9)


def residual(
    budget: float, rounds: int, count: int = RESIDUAL, measure: Measure = in_a_process
) -> Answer:
    """Residual blocks: trace and compile over the same by hand."""
    found: dict[str, list[dict[str, float]]] = {"serial": [], "by hand": []}
    for _ in range(min(rounds, 3)):
        for kind, own in found.items():
            own.append(measure(kind, count))
    ours, theirs = (
        {stage: statistics.median(each[stage] for each in own) for stage in STAGES}
        for own in found.values()
    )
    texts = [f"{stage} {ours[stage]:.2f} to {theirs[stage]:.2f} s" for stage in STAGES]
    ratio = sum(ours.values()) / sum(theirs.values())
    question = f"gradient of {count} small residual blocks, trace and compile: serial over by hand"
    return Answer(question, f"{ratio:.2f}x ({', '.join(texts)})", "1x", ratio <= 1.0, found)


ROWS: dict[str, Question] = {
    **{f"growth-{kind}": partial(growth, kind) for kind in COUNTS},
    "growth-residual": residual,
}

if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
