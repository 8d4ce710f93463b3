"""What do masks and streaming cost, and what does a cache save?

The figures are ratios of two medians taken in turns; both sides are compared before they are timed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jlayers as jl
from jlayers import decoding

from .agreement import assert_agreement
from .frameworks.jlayers.models import rope_transformer
from .frameworks.lax import models as by_hand
from .frameworks.sizes import Transformer
from .questions import Answer, Question, compared

Tree = Any


def masked_lstm(
    gradient: bool, budget: float, rounds: int, shape: tuple[int, ...] = (32, 128, 128, 256)
) -> Answer:
    """An LSTM over rows of different lengths against the same over an array, all of it valid."""
    batch, steps, inputs, features = shape
    model = jl.LSTM(features)
    x = jax.random.normal(jax.random.key(1), (batch, steps, inputs))
    lengths = np.random.default_rng(0).integers(1, steps + 1, batch)
    mask = jnp.arange(steps) < lengths[:, None]
    params, _ = model.init(jax.random.key(0), x)

    def forward(params: Tree, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        y, _ = model.apply(params, {}, x if mask is None else jl.Sequence(x, mask))
        return y if mask is None else y.fill()

    def loss(params: Tree, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return jnp.sum(forward(params, x, mask) ** 2)

    run = jax.jit(jax.grad(loss, (0, 1)) if gradient else forward)
    assert_agreement(run(params, x, jnp.ones_like(mask)), run(params, x, None))
    calls = {
        name: lambda mask=mask: jax.block_until_ready(run(params, x, mask))
        for name, mask in (("masked", mask), ("unmasked", None))
    }
    what = "gradient" if gradient else "forward"
    sizes = "x".join(map(str, shape))
    return compared(f"LSTM {sizes}, {what}: masked over unmasked", calls, 1.1, budget, rounds)


LARGE = Transformer(batch=1, steps=512, vocabulary=1000, width=512, heads=8, blocks=12)


def one_token(
    batch: int, repeated: bool, budget: float, rounds: int, size: Transformer = LARGE
) -> Answer:
    """A step of ``jl.stream`` against one written by hand; both have their cache donated."""
    model = rope_transformer(size, repeated)
    ids = jnp.arange(batch, dtype=jnp.int32)
    params, state = model.init(jax.random.key(0), ids[:, None])
    start, step = jl.stream(model, capacity=size.steps)

    def ours(params: Tree, carry: Tree, ids: jax.Array) -> tuple[jax.Array, Tree]:
        y, carry = step(params, state, carry, ids[:, None])
        return y[:, 0], carry

    own = by_hand.stacked_decode if repeated else by_hand.decode
    steps = {"jlayers": ours, "by hand": partial(own, heads=size.heads)}
    runs = {name: jax.jit(run, donate_argnums=1) for name, run in steps.items()}

    def empty() -> Tree:
        return start(params, state, ids[:, None])

    results = []
    for run in runs.values():
        carry, ys = empty(), []
        for at in range(3):
            y, carry = run(params, carry, ids + at)
            ys.append(y)
        results.append((ys, carry))
    assert_agreement(*results)

    def decoder(run: Any) -> Callable[[], Any]:
        """Each call takes a step; a full cache is replaced by an empty one."""
        carry, at = empty(), 0

        def call() -> None:
            nonlocal carry, at
            if at == size.steps:
                carry, at = empty(), 0
            y, carry = run(params, carry, ids)
            at += 1
            jax.block_until_ready((y, carry))

        return call

    calls = {name: decoder(run) for name, run in runs.items()}
    how = "repeat of" if repeated else "serial of"
    blocks = f"{how} {size.blocks} blocks of {size.width}"
    question = f"a token, {blocks}, batch {batch}: stream over hand"
    return compared(question, calls, 1.3, budget, rounds)


def cached(
    repeated: bool, budget: float, rounds: int, size: Any = LARGE, lengths: Any = (16, 256)
) -> Answer:
    """Decoding from the cache against the whole prefix at each step.

    ``lengths`` are those of the prompt and of what follows. The prefix is padded to a multiple of
    64: recomputing has few programs to compile.
    """
    model, (prompt, tokens) = rope_transformer(size, repeated), lengths
    ids = jnp.arange(prompt, dtype=jnp.int32)[None]
    params, state = model.init(jax.random.key(0), ids)

    @partial(jax.jit, static_argnames="length")
    def next_id(params: Tree, ids: jax.Array, at: jax.Array, length: int) -> jax.Array:
        y, _ = model.apply(params, state, ids[:, :length])
        return ids.at[:, at].set(decoding.greedy(y[:, at - 1]))

    def recomputing() -> jax.Array:
        padded = jnp.pad(ids, ((0, 0), (0, -(-tokens // 64) * 64)))
        for at in range(prompt, prompt + tokens):
            padded = next_id(params, padded, jnp.asarray(at), length=-(-at // 64) * 64)
        return jax.block_until_ready(padded[:, prompt : prompt + tokens])

    def from_cache() -> jax.Array:
        written = decoding.generate(model, params, state, ids, tokens)
        return jax.block_until_ready(written.values)

    np.testing.assert_array_equal(from_cache(), recomputing())
    how = "repeat of" if repeated else "serial of"
    blocks = f"{how} {size.blocks} blocks of {size.width}"
    question = f"{tokens} ids, {blocks}: cache against recomputing"
    calls = {"cache": from_cache, "recomputing": recomputing}
    return compared(question, calls, 1 / 5, budget, rounds)


ROWS: dict[str, Question] = {
    "masked-lstm-forward": partial(masked_lstm, False),
    "masked-lstm-gradient": partial(masked_lstm, True),
    "token-1": partial(one_token, 1, False),
    "token-8": partial(one_token, 8, False),
    "token-repeat-1": partial(one_token, 1, True),
    "token-repeat-8": partial(one_token, 8, True),
    "cache": partial(cached, False),
    "cache-repeat": partial(cached, True),
}
