"""decode: the loop, a pure function for ``jax.jit``.

How to read this file: ``decode_prompt`` is the loop, over a ``_Loop``; ``decode`` calls it, and so
does ``generate``, compiled. The model has read the prompt before (``prompts.prefill``).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..base import arguments
from ..base.errors import LayerError, calling_user_code, public_api
from ..base.layer import Layer
from ..base.sequence import Sequence
from ..base.specs import format_short
from ..base.types import Carry, Params, State
from .prompts import Prompt, PromptLike, as_prompt, check_model, prefill, stop_ids
from .sampling import Choose, greedy


@public_api
def decode(
    model: Layer,
    params: Params,
    state: State,
    prompt: PromptLike,
    steps: int,
    choose: Choose = greedy,
    *,
    key: jax.Array | None = None,
    stop: int | tuple[int, ...] | None = None,
    pad: int = 0,
) -> Sequence:
    """Continues a prompt: the model reads the prompt as one block, then a loop adds id after id.

    ``generate`` is this under ``jax.jit``, with prompts padded to a few lengths. Use ``decode`` to
    compile or to shard it yourself, and to choose ids in a way of your own.

    Args:
      model: causal, from ids (batch, steps) to logits (batch, steps, num_embeddings).
      params, state: the model's own.
      prompt: ints (batch, steps), or a ``Sequence`` of them. The result for a row does not depend
        on the other rows or their lengths. Where the mask is traced, a row without a valid step
        cannot be detected, and its result is meaningless.
      steps: the largest number of ids to generate.
      choose: ``choose(logits, key) -> id`` for the logits (num_embeddings,) of one row, float32 at
        least: ``greedy``, a ``sampler(...)``, or your own.
      key: for a ``choose`` that draws. The key of a draw has the number of the step and then that
        of the row folded in, so that it does not depend on other rows.
      stop: the id that ends a row, or several.
      pad: the id in the padding of the result.

    Returns:
      A ``Sequence`` of int32 ids, (batch, steps). A row is valid up to its first ``stop``,
      inclusive. The loop ends when all rows have ended.

    Raises:
      LayerError: for a model that cannot be streamed or does not return logits, for a prompt that
        is empty or not a batch of ids, and for other invalid arguments.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> from jlayers import decoding
    >>> model = jl.serial(jl.Embedding(7, 4), jl.LSTM(8), jl.Dense(7))
    >>> prompt = jl.Sequence.from_rows([[1, 2, 3], [4]])
    >>> params, state = model.init(jax.random.key(0), prompt)
    >>> decoding.decode(model, params, state, prompt, 5).shape
    (2, 5)
    """
    return decode_prompt(model, params, state, as_prompt(prompt), steps, choose, key, stop, pad)


class _Loop(NamedTuple):
    """What the loop carries; rows are those of the batch.

    Attributes:
      step: int32, how many ids have been generated.
      carry: the model's.
      last: int32 (rows,), the ids that the model reads next.
      done: bools (rows,), the rows that have ended.
      lengths: int32 (rows,), how many ids of a row are valid.
      ids: int32 (rows, steps), filled from the left.
    """

    step: jax.Array
    carry: Carry
    last: jax.Array
    done: jax.Array
    lengths: jax.Array
    ids: jax.Array


def decode_prompt(
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
    steps, pad = arguments.positive("steps", steps), arguments.integer("pad", pad)
    stops = stop_ids(stop)
    if key is not None:
        arguments.typed_key(key)
    decoder = prefill(model, params, state, prompt.right_aligned(), steps, stops)
    rows = decoder.last.shape[0]

    def row_keys(step: jax.Array) -> jax.Array | None:
        if key is None:
            return None
        # First the step, then the row: a row's draws are the same in every batch.
        step_key = jax.random.fold_in(key, step)
        return jax.vmap(lambda row: jax.random.fold_in(step_key, row))(jnp.arange(rows))

    def not_finished(loop: _Loop) -> jax.Array:
        return jnp.logical_and(loop.step < steps, ~jnp.all(loop.done))

    def advance(loop: _Loop) -> _Loop:
        step, carry, last, done, lengths, ids = loop
        logits, carry = decoder.advance(carry, last)
        chosen = _choose_ids(choose, logits, row_keys(step))
        # Rows that have ended go on being computed, because shapes are fixed; `pad` hides it.
        ids = ids.at[:, step].set(jnp.where(done, jnp.asarray(pad, jnp.int32), chosen))
        lengths = lengths + (~done).astype(jnp.int32)
        # After the id has been written and counted: the stop is part of the row.
        for stop_id in stops:
            done = done | (chosen == stop_id)
        return _Loop(step + 1, carry, chosen, done, lengths, ids)

    # A while loop and not a scan: it ends with the last row. The price is that it has no gradient,
    # which ids have not either.
    loop = _Loop(
        jnp.zeros((), jnp.int32),
        decoder.carry,
        decoder.last,
        jnp.zeros(rows, bool),
        jnp.zeros(rows, jnp.int32),
        jnp.full((rows, steps), pad, jnp.int32),
    )
    loop = lax.while_loop(not_finished, advance, loop)
    return Sequence.from_lengths(loop.ids, loop.lengths)


def _choose_ids(choose: Choose, logits: jax.Array, keys: jax.Array | None) -> jax.Array:
    # For one row at a time, so that a custom choice needs no batch axis.
    with calling_user_code("choose"):
        chosen = jax.vmap(choose)(logits, keys)
    fits = hasattr(chosen, "shape") and chosen.shape == logits.shape[:1]
    if not fits or not jnp.issubdtype(chosen.dtype, jnp.integer):
        expected = f"int[{len(logits)}] of {len(logits)} rows"
        raise LayerError(
            "choose must return an id for each row", expected=expected, got=format_short(chosen)
        )
    # Whatever ints a user's function returns, what the loop carries keeps its dtype.
    return chosen.astype(jnp.int32)
