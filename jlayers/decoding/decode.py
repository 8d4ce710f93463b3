"""decode: the loop, a pure function for ``jax.jit``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..base import arguments
from ..base.errors import LayerError, calling_user_code, public_api
from ..base.layer import Layer
from ..base.sequence import Sequence
from ..base.specs import Params, State, format_short
from .prompts import Prompt, check_model, check_stop, checked, read
from .sampling import Choose, greedy


@public_api
def decode(
    model: Layer,
    params: Params,
    state: State,
    prompt: Any,
    steps: int,
    choose: Choose = greedy,
    *,
    key: jax.Array | None = None,
    stop: int | tuple[int, ...] | None = None,
    pad: int = 0,
) -> Sequence:
    """What a model writes after a prompt: one block for the prompt, then a loop, step by step.

    ``generate`` is this under ``jax.jit``, with prompts padded to few lengths. Take this one to
    compile or to shard it yourself, and for a choice of your own.

    Args:
      model: causal, from ids (batch, steps) to logits (batch, steps, num_embeddings).
      params, state: the model's own.
      prompt: ints (batch, steps), or a ``Sequence`` of them. What a row gives is what it gives
        alone, however long the others are. A row without a valid step, where that is not known
        before it runs, gives something without meaning.
      steps: how many ids are written at most.
      choose: ``choose(logits, key) -> id`` for the logits (num_embeddings,) of one row, float32 at
        least: ``greedy``, a ``sampler(...)``, or your own.
      key: for a ``choose`` that draws; a row's draw is from the key with the number of the step
        and then that of the row folded in, so that it does not depend on other rows.
      stop: the id that ends a row, or several.
      pad: what stands in the padding of the result.

    Returns:
      A ``Sequence`` of int32 ids, (batch, steps). A row is valid up to its first ``stop``, that
      one included. The loop ends when all rows have.

    Raises:
      LayerError: for a model that cannot be streamed or gives no logits, a prompt that is no batch
        of ids or is empty, and other arguments that are none.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> from jlayers import decoding
    >>> model = jl.serial(jl.Embedding(7, 4), jl.LSTM(8), jl.Dense(7))
    >>> prompt = jl.Sequence.from_rows([[1, 2, 3], [4]])
    >>> params, state = model.init(jax.random.key(0), prompt)
    >>> decoding.decode(model, params, state, prompt, 5).shape
    (2, 5)
    """
    return written(model, params, state, checked(prompt), steps, choose, key, stop, pad)


def written(
    model: Layer,
    params: Params,
    state: State,
    prompt: Prompt,
    steps: int,
    choose: Choose,
    key: jax.Array | None,
    stop: int | tuple[int, ...] | None,
    pad: int,
) -> Sequence:
    """``decode`` of a prompt that has been checked."""
    check_model(model)
    steps, pad, stop = (
        arguments.positive("steps", steps),
        arguments.integer("pad", pad),
        check_stop(stop),
    )
    if key is not None:
        arguments.typed_key(key)
    writer = read(model, params, state, prompt.ending_together(), steps, stop)
    rows = writer.last.shape[0]

    def keys(at: jax.Array) -> Any:
        if key is None:
            return None
        of_step = jax.random.fold_in(key, at)
        return jax.vmap(lambda row: jax.random.fold_in(of_step, row))(jnp.arange(rows))

    def going_on(loop: Any) -> jax.Array:
        at, _, _, done, _, _ = loop
        return jnp.logical_and(at < steps, ~jnp.all(done))

    def step(loop: Any) -> Any:
        at, carry, last, done, lengths, ids = loop
        logits, carry = writer.advance(carry, last)
        chosen = _chosen(choose, logits, keys(at))
        ids = ids.at[:, at].set(jnp.where(done, jnp.asarray(pad, jnp.int32), chosen))
        lengths = lengths + (~done).astype(jnp.int32)
        for one in stop:
            done = done | (chosen == one)
        return at + 1, carry, chosen, done, lengths, ids

    loop = (
        jnp.zeros((), jnp.int32),
        writer.carry,
        writer.last,
        jnp.zeros(rows, bool),
        jnp.zeros(rows, jnp.int32),
        jnp.full((rows, steps), pad, jnp.int32),
    )
    *_, lengths, ids = lax.while_loop(going_on, step, loop)
    return Sequence.from_lengths(ids, lengths)


def _chosen(choose: Choose, logits: jax.Array, keys: Any) -> jax.Array:
    with calling_user_code("choose"):
        chosen = jax.vmap(choose)(logits, keys)
    fits = hasattr(chosen, "shape") and chosen.shape == logits.shape[:1]
    if not fits or not jnp.issubdtype(chosen.dtype, jnp.integer):
        expected = f"int[{len(logits)}] of {len(logits)} rows"
        raise LayerError("choose gives no ids", expected=expected, got=format_short(chosen))
    return chosen.astype(jnp.int32)
