"""What does the layer cost over the same model written by hand?

Each row is a function that gives a ``Row``: what was measured, the figure, and its bound.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl

from .hlo import hlo_text
from .timing import interleaved


class Row(NamedTuple):
    question: str
    figure: str
    bound: str
    holds: bool


MODEL = jl.serial(jl.Dense(128), jax.nn.relu, jl.Dense(128), jax.nn.relu, jl.Dense(10))


def by_hand(params, x):
    x = jax.nn.relu(x @ params["dense"]["kernel"] + params["dense"]["bias"])
    x = jax.nn.relu(x @ params["dense_1"]["kernel"] + params["dense_1"]["bias"])
    return x @ params["dense_2"]["kernel"] + params["dense_2"]["bias"]


def _mlp():
    x = jax.random.normal(jax.random.key(1), (32, 784))
    params, state = MODEL.init(jax.random.key(0), x)
    ours, theirs = jax.jit(MODEL.apply), jax.jit(by_hand)
    np.testing.assert_array_equal(ours(params, state, x)[0], theirs(params, x))
    return params, state, x, ours, theirs


def hlo() -> Row:
    """jit(model.apply) of a 3-layer MLP compiles to the program of the hand-written function."""
    params, state, x, ours, theirs = _mlp()
    a = hlo_text(ours.lower(params, state, x).compile())
    b = hlo_text(theirs.lower(params, x).compile())
    return Row(
        "3-layer MLP: compiled program equals the hand-written one", str(a == b), "True", a == b
    )


def call() -> Row:
    """Time of one call of the compiled MLP, dispatch included."""
    params, state, x, ours, theirs = _mlp()
    times = interleaved(
        {"jlayers": lambda: ours(params, state, x), "by hand": lambda: theirs(params, x)}, 4000
    )
    ratio = times["jlayers"].median / times["by hand"].median
    micros = times["by hand"].median * 1e6
    return Row(
        f"3-layer MLP: time of a call over the hand-written one ({micros:.0f} us)",
        f"{ratio:.3f}x",
        "1.03x",
        ratio <= 1.03,
    )


def _block(width):
    return jl.residual(jl.serial(jl.LayerNorm(), jl.Dense(4 * width), jax.nn.gelu, jl.Dense(width)))


def compile_time() -> Row:
    """repeat(block, 100) against repeat(block, 2): trace, lower and compile the gradient."""

    def compile_once(n):
        model = jl.repeat(_block(64), n)
        x = jl.spec((8, 64))
        params, state = jax.eval_shape(model.init, jax.random.key(0), x)

        def loss(params, x):
            return jnp.sum(model.apply(params, state, x)[0])

        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(jax.grad(loss)).lower(params, x).compile()
        return time.perf_counter() - start

    seconds = {2: [], 100: []}
    for _ in range(9):
        for n, values in seconds.items():
            values.append(compile_once(n))
    few, many = np.median(seconds[2]), np.median(seconds[100])
    return Row(
        f"gradient of repeat(block, 100): compile time over repeat(block, 2) ({few * 1e3:.0f} ms)",
        f"{many / few:.2f}x",
        "1.5x",
        many / few <= 1.5,
    )


def nesting() -> Row:
    """How often init traces a leaf under 30 nested serials; jit(apply) traces it once more."""
    counted = 0

    def leaf(x):
        nonlocal counted
        counted += 1
        return x

    model = leaf
    for _ in range(30):
        model = jl.serial(model, jl.Dense(4))
    model.init(jax.random.key(0), jl.spec((2, 4)))
    return Row(
        "init under 30 nested serials: traces of the innermost leaf",
        str(counted),
        "2",
        counted <= 2,
    )


def init_shapes() -> Row:
    """eval_shape of init of 50 residual conv blocks: the whole model checked, no FLOPs."""

    def block(width):
        half = [jl.Conv(width, 3, padding="SAME", bias=False), jl.BatchNorm()]
        return jl.residual(jl.serial(*half, jax.nn.relu, *half))

    seconds = []
    for _ in range(7):
        model = jl.serial(jl.Conv(64, 3, padding="SAME"), *[block(64) for _ in range(50)])
        start = time.perf_counter()
        jax.eval_shape(model.init, jax.random.key(0), jl.spec((8, 32, 32, 3)))
        seconds.append(time.perf_counter() - start)
    median = np.median(seconds)
    return Row("eval_shape of init of 50 conv blocks", f"{median:.2f} s", "1 s", median < 1)


ROWS = {row.__name__: row for row in (hlo, call, compile_time, nesting, init_shapes)}
