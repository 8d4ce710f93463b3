"""beam_search: the likeliest continuations, several at a time.

How to read this file: ``beam_search`` runs ``advance`` in a while loop over a ``_Loop``, whose
beams are rows of the model's batch, (rows * beams). ``batch_axes`` and ``_take_rows`` make the
carry of a beam follow its parent, whatever the layout of the carry.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..base import arguments
from ..base.errors import public_api
from ..base.layer import Layer
from ..base.types import Carry, Params, PyTree, State
from ..core.dispatch import is_staged
from .batch_axes import batch_axes
from .context import as_context
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
from .sampling import usable


class Beams(NamedTuple):
    """The result of a beam search, the best beam first.

    Attributes:
      ids: int32 (batch, beams, steps).
      mask: bools (batch, beams, steps), True up to the first stop, inclusive; all False in a beam
        where there are fewer continuations than beams.
      scores: floats (batch, beams): the logarithm of the probability over the length penalty;
        ``-inf`` where there is no continuation, NaN in a row for which logits held NaN or ``inf``
        or were all ``-inf``, whose mask is False.
    """

    ids: jax.Array
    mask: jax.Array
    scores: jax.Array


class _Loop(NamedTuple):
    """What the loop carries.

    Attributes:
      step: int32, how many ids have been generated.
      carry: the model's, for (batch * beams) rows.
      last: int32 (batch, beams), the ids that the model reads next.
      ids: int32 (batch, beams, steps), filled from the left.
      done: bools (batch, beams), the beams that have ended.
      lengths: int32 (batch, beams), how many ids of a beam are valid.
      log_p: floats (batch, beams), the log probability of a beam; ``-inf`` for one that is unused.
    """

    step: jax.Array
    carry: Carry
    last: jax.Array
    ids: jax.Array
    done: jax.Array
    lengths: jax.Array
    log_p: jax.Array


@public_api
def beam_search(
    model: Layer,
    params: Params,
    state: State,
    prompt: PromptLike,
    steps: int,
    *,
    beams: int,
    context: PyTree = None,
    stop: int | tuple[int, ...] | None = None,
    pad: int = 0,
    length_penalty: float = 0.0,
) -> Beams:
    """The likeliest continuations of a prompt, as far as a search of limited width finds them.

    Each step extends the ``beams`` best continuations so far by every id, and keeps the best of
    these and of those that have ended. The score of ``n`` ids ``y`` is::

        log p(y) / ((5 + n) / 6) ** length_penalty

    (Wu et al., 2016, arXiv:1609.08144). With ``beams=1`` that is greedy decoding. A pure function;
    outside ``jax.jit`` it is compiled once for the same model, shapes and options.

    Args:
      model, params, state, prompt, steps, context, stop, pad: as for ``decode``.
      beams: how many continuations are kept.
      length_penalty: 0 for none; above, longer continuations are preferred.

    Returns:
      ``Beams``: ids, mask and scores of the continuations, the best first.

    Raises:
      LayerError: as ``decode`` does, and for a model whose carry holds an array without exactly one
        axis for the batch.

    >>> import jax, jlayers as jl
    >>> from jlayers import decoding
    >>> model = jl.serial(jl.Embedding(7, 4), jl.LSTM(8), jl.Dense(7))
    >>> prompt = jl.Sequence.from_rows([[1, 2, 3], [4]])
    >>> params, state = model.init(jax.random.key(0), prompt)
    >>> found = decoding.beam_search(model, params, state, prompt, 5, beams=3)
    >>> found.ids.shape, found.scores.shape
    ((2, 3, 5), (2, 3))
    """
    check_model(model)
    ids, stops = as_prompt(prompt), stop_ids(stop)
    params, state = native_trees(params, state)
    context = as_context(context, ids.ids.shape[0])
    options: dict[str, Any] = {
        "steps": arguments.positive("steps", steps),
        "beams": arguments.positive("beams", beams),
        "stop": stops,
        "pad": pad_id(pad),
        "length_penalty": arguments.number("length_penalty", length_penalty),
    }
    if is_staged((params, state, ids, context)):
        return _search(model, params, state, ids, context, **options)
    # Before it is traced: afterwards the values are unknown.
    check_ids(model, ids, stops, context)
    found = program(model, _search, *options)(params, state, ids, context, **options)
    # Inside a jit around constants.
    if isinstance(found.scores, jax.core.Tracer):
        return found
    unusable = np.isnan(np.asarray(found.scores[:, 0]))
    if unusable.any():
        row, rows = int(np.argmax(unusable)), int(np.count_nonzero(unusable))
        raise no_id(row, "in one of its beams hold NaN or inf, or are all -inf", rows)
    return found


def _search(
    model: Layer,
    params: Params,
    state: State,
    prompt: Prompt,
    context: PyTree,
    *,
    steps: int,
    beams: int,
    stop: tuple[int, ...],
    pad: int,
    length_penalty: float,
) -> Beams:
    """``beam_search`` of arguments that have been checked."""
    prompt = prompt.right_aligned()
    decoder = prefill(model, params, state, prompt, steps, stop, context=context, copies=beams)
    rows = decoder.last.shape[0]
    axes = batch_axes(decoder.start, rows)
    # The first beam of each row, as an index into the rows of the carry.
    first_beam = jnp.arange(rows, dtype=jnp.int32)[:, None] * beams

    def not_finished(loop: _Loop) -> jax.Array:
        return jnp.logical_and(loop.step < steps, jnp.any(~loop.done & (loop.log_p > -jnp.inf)))

    def advance(loop: _Loop) -> _Loop:
        step, carry, last, ids, done, lengths, log_p = loop
        logits, carry = decoder.advance(carry, last.reshape(-1))
        size = logits.shape[-1]
        live = ~done & (log_p > -jnp.inf)
        unusable = jnp.any(live & ~usable(logits).reshape(rows, beams), 1, keepdims=True)
        unusable = jnp.broadcast_to(unusable, done.shape)
        log_p_next = jax.nn.log_softmax(logits).reshape(rows, beams, size).astype(jnp.float32)
        # A beam that has ended has one continuation, itself: id 0, which costs nothing and is
        # never written.
        is_first = jnp.broadcast_to(jnp.arange(size) == 0, log_p_next.shape)
        ended = jnp.broadcast_to(done[..., None], log_p_next.shape)
        log_p_next = jnp.where(ended, jnp.where(is_first, 0.0, -jnp.inf), log_p_next)
        totals = jnp.broadcast_to(log_p[..., None], log_p_next.shape) + log_p_next
        new_lengths = lengths + (~done).astype(jnp.int32)
        penalty = _penalty(new_lengths, length_penalty)
        # Penalised for the choice only: `log_p` has to add up over the steps.
        scores = totals / jnp.broadcast_to(penalty[..., None], log_p_next.shape)
        # Over beams and ids together: the children of one beam may replace all others.
        _, best = lax.top_k(scores.reshape(rows, beams * size), beams)
        parent, chosen = best // size, (best % size).astype(jnp.int32)

        def of_parent(values: jax.Array) -> jax.Array:
            return jnp.take_along_axis(values, parent, 1)

        log_p = jnp.take_along_axis(totals.reshape(rows, beams * size), best, 1)
        # All that belongs to a beam is inherited from the beam that it extends.
        done, lengths = of_parent(done), of_parent(new_lengths)
        ids = jnp.take_along_axis(ids, jnp.broadcast_to(parent[..., None], ids.shape), 1)
        ids = ids.at[:, :, step].set(jnp.where(done, jnp.asarray(pad, jnp.int32), chosen))
        for stop_id in stop:
            done = done | (chosen == stop_id)
        # The search of such a row ends: what its other beams find may not be the best.
        done, log_p = done | unusable, jnp.where(unusable, jnp.nan, log_p)
        source = jnp.broadcast_to(first_beam, parent.shape) + parent
        carry = _take_rows(carry, axes, source.reshape(-1))
        return _Loop(step + 1, carry, chosen, ids, done, lengths, log_p)

    copies = jnp.repeat(jnp.arange(rows), beams)
    # All beams of a row are copies of its prompt at first: all but one are unused, or the search
    # would find each continuation several times.
    start = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf).astype(jnp.float32)
    loop = _Loop(
        jnp.zeros((), jnp.int32),
        _take_rows(decoder.carry, axes, copies),
        decoder.last[copies].reshape(rows, beams),
        jnp.full((rows, beams, steps), pad, jnp.int32),
        jnp.zeros((rows, beams), bool),
        jnp.zeros((rows, beams), jnp.int32),
        jnp.broadcast_to(start, (rows, beams)),
    )
    loop = lax.while_loop(not_finished, advance, loop)
    ids, lengths, log_p = loop.ids, loop.lengths, loop.log_p
    indices = jnp.broadcast_to(jnp.arange(steps), ids.shape)
    valid = indices < jnp.broadcast_to(lengths[..., None], ids.shape)
    # An unused beam has been extended like the others, by ids that mean nothing.
    mask = valid & jnp.broadcast_to((log_p > -jnp.inf)[..., None], ids.shape)
    scores = log_p / _penalty(lengths, length_penalty)
    return Beams(jnp.where(mask, ids, jnp.asarray(pad, jnp.int32)), mask, scores)


def _penalty(lengths: jax.Array, alpha: float) -> jax.Array:
    return ((5 + lengths.astype(jnp.float32)) / 6) ** alpha


def _take_rows(carry: Carry, axes: dict[str, object], rows: jax.Array) -> Carry:
    """The carry of these rows."""
    taken: Carry = jax.tree.map(
        lambda leaf, axis: leaf if axis < 0 else jnp.take(leaf, rows, axis=axis), carry, axes
    )
    return taken
