"""What does one step of a stream cost against the bytes it must touch, and what does it copy?

A step must read the weights and what its carry holds, and write the new carry's part. The carry is
donated, or carried by a loop. Times are over those that the bytes take at the bandwidth measured in
the same run; temporaries are the compiler's own figure, over the bytes of the carry.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jlayers as jl

from .agreement import assert_agreement
from .floors import floor_seconds
from .frameworks.jlayers.models import rope_transformer
from .frameworks.sizes import Transformer
from .noise import mark, share_of_others
from .questions import Answer, Question, compared
from .timing import time_boxed

Tree = Any
TAPS = 257
DECODER = Transformer(batch=1, steps=2048, vocabulary=1000, width=512, heads=8, blocks=12)


def nbytes(tree: Tree) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))


def lstm(features: int) -> jl.Layer:
    return jl.LSTM(features)


def causal(channels: int, taps: int = TAPS, groups: int = 1) -> jl.Layer:
    return jl.Conv(channels, taps, padding="CAUSAL", groups=groups)


def stepping(
    model: jl.Layer, x: Tree, capacity: int | None = None
) -> tuple[Callable[..., Any], Tree, Tree, Callable[[], Tree]]:
    """A compiled step with its carry donated, parameters, one output, and a call with each step."""
    params, state = jax.jit(model.init)(jax.random.key(0), x)
    start, step = jl.stream(model, capacity=capacity)
    run = jax.jit(lambda p, carry, x: step(p, state, carry, x), donate_argnums=1)
    # A copy: zeros may be one buffer, which cannot be donated twice.
    fresh = partial(jax.tree.map, jnp.array)
    first, carry = run(params, fresh(start(params, state, x)), x)
    taken = 1

    def call() -> Tree:
        nonlocal carry, taken
        if taken == capacity:
            carry, taken = fresh(start(params, state, x)), 0
        y, carry = run(params, carry, x)
        taken += 1
        return jax.block_until_ready((y, carry))[0]

    return run, params, first, call


def one_step(
    model: jl.Layer, inputs: int, batch: int, bound: float, budget: float, rounds: int
) -> Answer:
    """The time of a step over that of reading weights and carry once; the input is small beside."""
    x = jax.random.normal(jax.random.key(1), (batch, 1, inputs))
    _, params, first, call = stepping(model, x)
    whole, _ = jax.jit(model.apply)(params, {}, x)
    assert_agreement(first, whole)
    carry = jax.eval_shape(lambda p, x: jl.stream(model)[0](p, {}, x), params, x)
    weights = sum(a.size for a in jax.tree.leaves(params))
    needed = floor_seconds(2.0 * batch * weights, nbytes(params) + nbytes(carry), "float32")
    start = mark()
    timing = time_boxed({"step": call}, budget, rounds)["step"]
    others = share_of_others(start)
    ratio = timing.median / needed
    figure = f"{ratio:.2f}x ({1e6 * timing.median:.3g} of {1e6 * needed:.3g} us)"
    question = f"a step of {model}, batch {batch}, inputs {inputs}: over the time for its bytes"
    seconds = {"step": timing._asdict()}
    return Answer(question, figure, f"{bound:g}x", ratio <= bound, seconds, others, needed)


def repeated(batch: int, budget: float, rounds: int, size: Transformer = DECODER) -> Answer:
    """A step of the same transformer by ``repeat`` and by ``serial``."""
    ids = jnp.zeros((batch, 1), jnp.int32)
    models = {"repeat": rope_transformer(size, True), "serial": rope_transformer(size, False)}
    calls = {name: stepping(model, ids, size.steps)[-1] for name, model in models.items()}
    blocks = f"{size.blocks} blocks of {size.width}, {size.steps:,} slots"
    question = f"a token, {blocks}, batch {batch}: repeat over serial"
    return compared(question, calls, 1.1, budget, rounds)


def temporaries(
    what: str,
    make: Callable[[], tuple[jl.Layer, Tree, int | None]],
    bound: float,
    budget: float,
    rounds: int,
) -> Answer:
    """Of a loop of steps whose input is the last output, over the bytes of its carry."""
    model, x, capacity = make()
    params, state = jax.eval_shape(model.init, jax.random.key(0), x)
    start, step = jl.stream(model, capacity=capacity)
    carry = jax.eval_shape(lambda p, s, x: start(p, s, x), params, state, x)

    def loop(params: Tree, state: Tree, carry: Tree, x: Tree) -> Tree:
        def take(_: Any, now: Tree) -> Tree:
            y, carry = step(params, state, now[1], now[0])
            is_ids = jnp.issubdtype(x.dtype, jnp.integer)
            return (jnp.argmax(y, -1).astype(x.dtype) if is_ids else y), carry

        return jax.lax.fori_loop(0, 16, take, (x, carry))

    program = jax.jit(loop, donate_argnums=2).lower(params, state, carry, x).compile()
    memory = program.memory_analysis()
    assert memory is not None
    taken, held = memory.temp_size_in_bytes, nbytes(carry)
    figure = f"{taken / held:.3f}x ({taken / 1e6:.3g} of {held / 1e6:.3g} MB)"
    question = f"temporaries of a loop of steps over the carry: {what}"
    return Answer(question, figure, f"{bound:g}x", taken <= bound * held, {})


def decoder(
    is_repeated: bool, batch: int, size: Transformer = DECODER
) -> tuple[jl.Layer, Tree, int | None]:
    return rope_transformer(size, is_repeated), jl.spec((batch, 1), jnp.int32), size.steps


def convolutions(channels: int, batch: int, taps: int = TAPS) -> tuple[jl.Layer, Tree, int | None]:
    """Four of them, as in a model of sound."""
    layers = [causal(channels, taps) for _ in range(4)]
    return jl.serial(*layers), jl.spec((batch, 1, channels)), None


def _rows() -> dict[str, Question]:
    rows: dict[str, Question] = {
        f"step-lstm-{batch}": partial(one_step, lstm(256), 256, batch, 1.2) for batch in (1, 4)
    }
    for channels, batch in ((64, 1), (64, 4), (256, 1), (256, 4)):
        name = f"step-conv-{channels}-{batch}"
        rows[name] = partial(one_step, causal(channels), channels, batch, 1.5)
    rows["step-conv-depthwise"] = partial(one_step, causal(256, groups=256), 256, 4, 1.5)
    for batch in (1, 4):
        rows[f"step-repeat-{batch}"] = partial(repeated, batch)
    for kind, is_repeated in (("serial", False), ("repeat", True)):
        what = f"{DECODER.blocks} blocks of {DECODER.width} by {kind}, batch 1"
        make = partial(decoder, is_repeated, 1)
        rows[f"temporaries-{kind}"] = partial(temporaries, what, make, 1.0)
    what = f"4 causal convolutions of {TAPS} taps, 64 channels, batch 4"
    rows["temporaries-conv"] = partial(temporaries, what, partial(convolutions, 64, 4), 1.0)
    return rows


ROWS: dict[str, Question] = _rows()
