"""What does the layer cost over the same model written by hand?"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl

from .frameworks.lax.models import mlp as by_hand
from .hlo import hlo_text
from .questions import Answer, compared

MODEL = jl.serial(jl.Dense(128), jax.nn.relu, jl.Dense(128), jax.nn.relu, jl.Dense(10))


def _mlp() -> Any:
    x = jax.random.normal(jax.random.key(1), (32, 784))
    params, state = MODEL.init(jax.random.key(0), x)
    ours, theirs = jax.jit(MODEL.apply), jax.jit(by_hand)
    np.testing.assert_array_equal(ours(params, state, x)[0], theirs(params, x))
    return params, state, x, ours, theirs


def hlo(budget: float, rounds: int) -> Answer:
    """jit(model.apply) of a 3-layer MLP compiles to the program of the hand-written function."""
    params, state, x, ours, theirs = _mlp()
    a = hlo_text(ours.lower(params, state, x).compile())
    b = hlo_text(theirs.lower(params, x).compile())
    question = "3-layer MLP: compiled program equals the hand-written one"
    return Answer(question, str(a == b), "True", a == b, {})


def call(budget: float, rounds: int) -> Answer:
    """Time of one call of the compiled MLP, dispatch included; short calls need many."""
    params, state, x, ours, theirs = _mlp()
    calls = {
        "jlayers": lambda: jax.block_until_ready(ours(params, state, x)),
        "by hand": lambda: jax.block_until_ready(theirs(params, x)),
    }
    question = "3-layer MLP: time of a call over the hand-written one"
    return compared(question, calls, 1.03, budget, 4000)


def compile_time(budget: float, rounds: int) -> Answer:
    """repeat(block, 100) against repeat(block, 2): trace, lower and compile the gradient."""
    layers = [jl.LayerNorm(), jl.Dense(4 * 64), jax.nn.gelu, jl.Dense(64)]
    block, x = jl.residual(jl.serial(*layers)), jl.spec((8, 64))

    def compile_once(n: int) -> float:
        model = jl.repeat(block, n)
        params, state = jax.eval_shape(model.init, jax.random.key(0), x)

        def loss(params: Any, x: Any) -> Any:
            return jnp.sum(model.apply(params, state, x)[0])

        jax.clear_caches()
        start = time.perf_counter()
        jax.jit(jax.grad(loss)).lower(params, x).compile()
        return time.perf_counter() - start

    seconds = np.array([[compile_once(2), compile_once(100)] for _ in range(9)])
    few, many = np.median(seconds, axis=0)
    question = "gradient of repeat(block, 100): compile time over repeat(block, 2)"
    question += f" ({few * 1e3:.0f} ms)"
    return Answer(question, f"{many / few:.2f}x", "1.5x", bool(many / few <= 1.5), {})


def nesting(budget: float, rounds: int) -> Answer:
    """How often init traces a leaf under 30 nested serials; jit(apply) traces it once more."""
    traces = 0

    def leaf(x: Any) -> Any:
        nonlocal traces
        traces += 1
        return x

    model: Any = leaf
    for _ in range(30):
        model = jl.serial(model, jl.Dense(4))
    model.init(jax.random.key(0), jl.spec((2, 4)))
    question = "init under 30 nested serials: traces of the innermost leaf"
    return Answer(question, str(traces), "2", traces <= 2, {})


def init_shapes(budget: float, rounds: int) -> Answer:
    """eval_shape of init of 50 residual conv blocks: the whole model checked, no FLOPs."""

    def block(width: int) -> jl.Layer:
        half = [jl.Conv(width, 3, padding="SAME", bias=False), jl.BatchNorm()]
        return jl.residual(jl.serial(*half, jax.nn.relu, *half))

    seconds = []
    for _ in range(7):
        model = jl.serial(jl.Conv(64, 3, padding="SAME"), *[block(64) for _ in range(50)])
        start = time.perf_counter()
        jax.eval_shape(model.init, jax.random.key(0), jl.spec((8, 32, 32, 3)))
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds))
    question = "eval_shape of init of 50 conv blocks"
    return Answer(question, f"{median:.2f} s", "1 s", median < 1, {"eval_shape": seconds})


ROWS = {row.__name__: row for row in (hlo, call, compile_time, nesting, init_shapes)}
