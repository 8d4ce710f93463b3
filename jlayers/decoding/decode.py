"""decode: the loop, a pure function for ``jax.jit``.

How to read this file: ``decode_prompt`` is the loop, over a ``_Loop``; ``decode`` calls it, and so
does ``generate``, compiled. The model has read the prompt before (``prompts.prefill``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..base import arguments
from ..base.errors import LayerError, calling_user_code, public_api
from ..base.layer import Layer
from ..base.sequence import Sequence
from ..base.specs import format_short
from ..base.types import Carry, Params, PyTree, State
from ..core.dispatch import is_staged
from ..sharding import Rules
from ..sharding.batches import AnyMesh
from .batch_axes import PlaceCarry, as_it_is
from .context import as_context
from .on_mesh import OnMesh, on_mesh
from .programs import program
from .prompts import (
    Prompt,
    PromptLike,
    as_prompt,
    check_ids,
    check_model,
    native_trees,
    no_id,
    pad_id,
    prefill,
    stop_ids,
)
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
    context: PyTree = None,
    key: jax.Array | None = None,
    stop: int | tuple[int, ...] | None = None,
    pad: int = 0,
    mesh: AnyMesh | None = None,
    rules: Rules | None = None,
) -> Sequence:
    """Continues a prompt: the model reads the prompt as one block, then a loop adds id after id.

    Outside ``jax.jit`` it is compiled once for the same model, shapes, options and ``choose``.
    ``generate`` is this under ``jax.jit``, with prompts padded to a few lengths. Use ``decode`` to
    compile or to shard it yourself, and to choose ids in a way of your own.

    Args:
      model: causal, from ids (batch, steps) to logits (batch, steps, num_embeddings), or from
        ``(ids, context)``; of a ``carried`` model the logits are taken.
      params, state: the model's own.
      prompt: ints (batch, steps), or a ``Sequence`` of them. The result for a row does not depend
        on the other rows or their lengths. Where the mask is traced, a row without a valid step
        cannot be detected, and its result is meaningless.
      steps: the largest number of ids to generate.
      choose: ``choose(logits, key) -> id`` for the logits (num_embeddings,) of one row, float32 at
        least: ``greedy``, a ``sampler(...)``, or your own.
      context: what the model reads beside the ids, for one from ``(ids, context)``: arrays or
        ``Sequence``s with the rows of the prompt, such as features of images, the memory of
        ``CrossAttention``, the source that a layer in ``once`` reads, or a carry to begin with.
      key: for a ``choose`` that draws. The key of a draw has the number of the step and then that
        of the row folded in, so that it does not depend on other rows.
      stop: the id that ends a row, or several.
      pad: the id in the padding of the result.
      mesh: the devices to decode on, with ``rules``. Parameters, rows of the batch, and caches and
        states of the stream lie there as the rules say: rows are split as those of a batch, and
        heads and units as the kernels of their layer. The result is whole on each device.
      rules: which part of each array lies where: ``sharding.tensor_parallel("model")``.

    Returns:
      A ``Sequence`` of int32 ids, (batch, steps). A row is valid up to its first ``stop``,
      inclusive. The loop ends when all rows have ended. A row for which there is no id to choose,
      because its logits hold NaN or ``inf`` or are all ``-inf``, ends before that step.

    Raises:
      LayerError: for a model that cannot be streamed or does not return logits, for a prompt that
        is empty or not a batch of ids, for other invalid arguments, and, outside ``jax.jit``, for
        a row without an id to choose.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> from jlayers import decoding
    >>> model = jl.serial(jl.Embedding(7, 4), jl.LSTM(8), jl.Dense(7))
    >>> prompt = jl.Sequence.from_rows([[1, 2, 3], [4]])
    >>> params, state = model.init(jax.random.key(0), prompt)
    >>> decoding.decode(model, params, state, prompt, 5).shape
    (2, 5)
    """
    check_model(model)
    ids, stops = as_prompt(prompt), stop_ids(stop)
    params, state = native_trees(params, state)
    context = as_context(context, ids.ids.shape[0])
    if key is not None:
        arguments.typed_key(key)
    steps, pad = arguments.positive("steps", steps), pad_id(pad)
    given, where = (params, state, ids, key, context), on_mesh(mesh, rules)
    run: Callable[..., Decoded]
    if is_staged(given) or not isinstance(choose, Hashable):
        run = functools.partial(decode_prompt, model)
    else:
        # Before it is traced: afterwards the values are unknown.
        check_ids(model, ids, stops, context)
        run = program(model, decode_prompt, "steps", "choose", "stop", "pad", "where")
        given = given if where is None else where.put(model, given)
    options = {"steps": steps, "choose": choose, "stop": stops, "pad": pad, "where": where}
    return reported(run(*given, **options))


class Decoded(NamedTuple):
    """What the loop wrote.

    Attributes:
      ids: the valid ids of each row.
      trouble: int32 (rows,), what ended a row too early, as an index into ``TROUBLES``; else 0.
    """

    ids: Sequence
    trouble: jax.Array


TROUBLES = (
    "",
    "are NaN",
    "hold inf",
    "are all -inf",
    "are fine, and choose gave an id outside them",
)


def reported(decoded: Decoded) -> Sequence:
    """The ids.

    Raises:
      LayerError: where it is known that there was no id to choose for a row.
    """
    if isinstance(decoded.trouble, jax.core.Tracer):
        return decoded.ids
    trouble = np.asarray(decoded.trouble)
    if trouble.any():
        row = int(np.flatnonzero(trouble)[0])
        count = int(np.asarray(decoded.ids.lengths)[row])
        after = f"after {count} id{'s' * (count != 1)}" if count else "after the prompt"
        why = f"{after} {TROUBLES[trouble[row]]}"
        raise no_id(row, why, int(np.count_nonzero(trouble)))
    return decoded.ids


class _Loop(NamedTuple):
    """What the loop carries; rows are those of the batch.

    Attributes:
      step: int32, how many ids have been generated.
      carry: the model's.
      last: int32 (rows,), the ids that the model reads next.
      done: bools (rows,), the rows that have ended.
      trouble: int32 (rows,), why, where there was no id to choose; an index into ``TROUBLES``.
      lengths: int32 (rows,), how many ids of a row are valid.
      ids: int32 (rows, steps), filled from the left.
    """

    step: jax.Array
    carry: Carry
    last: jax.Array
    done: jax.Array
    trouble: jax.Array
    lengths: jax.Array
    ids: jax.Array


def decode_prompt(
    model: Layer,
    params: Params,
    state: State,
    prompt: Prompt,
    key: jax.Array | None,
    context: PyTree,
    *,
    steps: int,
    choose: Choose,
    stop: tuple[int, ...],
    pad: int,
    where: OnMesh | None = None,
) -> Decoded:
    """``decode`` of arguments that have been checked."""
    run = functools.partial(_decoded, model, steps=steps, choose=choose, stop=stop, pad=pad)
    given = (params, state, prompt, key, context)
    return run(*given, as_it_is) if where is None else where.run(model, run, given)


def _decoded(
    model: Layer,
    params: Params,
    state: State,
    prompt: Prompt,
    key: jax.Array | None,
    context: PyTree,
    place: PlaceCarry,
    *,
    steps: int,
    choose: Choose,
    stop: tuple[int, ...],
    pad: int,
) -> Decoded:
    more = {"context": context, "place": place}
    decoder = prefill(model, params, state, prompt.right_aligned(), steps, stop, **more)
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
        step, carry, last, done, trouble, lengths, ids = loop
        logits, carry = decoder.advance(carry, last)
        chosen = _choose_ids(choose, logits, row_keys(step))
        trouble = jnp.where(done, trouble, _trouble(logits, chosen))
        done = done | (trouble > 0)
        # Rows that have ended go on being computed, because shapes are fixed; `pad` hides it.
        ids = ids.at[:, step].set(jnp.where(done, jnp.asarray(pad, jnp.int32), chosen))
        lengths = lengths + (~done).astype(jnp.int32)
        # After the id has been written and counted: the stop is part of the row.
        for stop_id in stop:
            done = done | (chosen == stop_id)
        # A model cannot read NO_ID; what a row that has ended reads has no effect.
        chosen = jnp.where(trouble > 0, 0, chosen)
        return _Loop(step + 1, carry, chosen, done, trouble, lengths, ids)

    # A while loop and not a scan: it ends with the last row. The price is that it has no gradient,
    # which ids have not either.
    loop = _Loop(
        jnp.zeros((), jnp.int32),
        decoder.carry,
        decoder.last,
        jnp.zeros(rows, bool),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.full((rows, steps), pad, jnp.int32),
    )
    loop = lax.while_loop(not_finished, advance, loop)
    return Decoded(Sequence.from_lengths(loop.ids, loop.lengths), loop.trouble)


def _trouble(logits: jax.Array, chosen: jax.Array) -> jax.Array:
    """An index into ``TROUBLES`` for each row."""
    largest = jnp.max(logits, -1)
    outside = (chosen < 0) | (chosen >= logits.shape[-1])
    found = [jnp.isnan(largest), largest == jnp.inf, largest == -jnp.inf, outside]
    return jnp.select(found, [jnp.int32(i) for i in range(1, len(TROUBLES))], jnp.int32(0))


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
