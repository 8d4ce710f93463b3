"""beam_search: the likeliest continuations, several at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..base import arguments
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.specs import Params, State, format_spec
from .prompts import Writer, check_model, check_stop, checked, read


class Beams(NamedTuple):
    """What a beam search found, the best first.

    Attributes:
      ids: int32 (batch, beams, steps).
      mask: bools (batch, beams, steps), True up to the first stop, that one included; False all
        along a beam where there are fewer continuations than beams.
      scores: floats (batch, beams): the logarithm of the probability over the length penalty, or
        ``-inf`` where there is no continuation.
    """

    ids: jax.Array
    mask: jax.Array
    scores: jax.Array


@public_api
def beam_search(
    model: Layer,
    params: Params,
    state: State,
    prompt: Any,
    steps: int,
    *,
    beams: int,
    stop: int | tuple[int, ...] | None = None,
    pad: int = 0,
    length_penalty: float = 0.0,
) -> Beams:
    """The likeliest continuations of a prompt, as far as a search of some width finds them.

    Each step goes on from the ``beams`` best continuations of the last one with every id, and
    keeps the best of these and of those that have ended. The score of ``n`` ids ``y`` is::

        log p(y) / ((5 + n) / 6) ** length_penalty

    (Wu et al., 2016, arXiv:1609.08144). With ``beams=1`` that is greedy decoding. A pure function:
    compile it with ``jax.jit``.

    Args:
      model, params, state, prompt, steps, stop, pad: as for ``decode``.
      beams: how many continuations are kept.
      length_penalty: 0 for none; above, longer continuations are preferred.

    Raises:
      LayerError: as ``decode`` does, and for a model whose carry has not one axis for the batch.

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
    steps, beams = arguments.positive("steps", steps), arguments.positive("beams", beams)
    stops, pad = check_stop(stop), arguments.integer("pad", pad)
    length_penalty = arguments.number("length_penalty", length_penalty)
    writer = read(model, params, state, checked(prompt).ending_together(), steps, stops)
    rows = writer.last.shape[0]
    axes = _batch_axes(writer, rows)
    firsts = jnp.arange(rows, dtype=jnp.int32)[:, None] * beams

    def going_on(loop: Any) -> jax.Array:
        at, _, _, _, done, _, total = loop
        return jnp.logical_and(at < steps, jnp.any(~done & (total > -jnp.inf)))

    def step(loop: Any) -> Any:
        at, carry, last, ids, done, lengths, total = loop
        logits, carry = writer.advance(carry, last.reshape(-1))
        size = logits.shape[-1]
        more = jax.nn.log_softmax(logits).reshape(rows, beams, size).astype(jnp.float32)
        # One that has ended goes on in one way, as it is.
        stays = jnp.broadcast_to(jnp.arange(size) == 0, more.shape)
        ended = jnp.broadcast_to(done[..., None], more.shape)
        more = jnp.where(ended, jnp.where(stays, 0.0, -jnp.inf), more)
        totals = jnp.broadcast_to(total[..., None], more.shape) + more
        longer = lengths + (~done).astype(jnp.int32)
        scores = totals / jnp.broadcast_to(_penalty(longer, length_penalty)[..., None], more.shape)
        _, best = lax.top_k(scores.reshape(rows, -1), beams)
        parent, chosen = best // size, (best % size).astype(jnp.int32)

        def of_parent(values: jax.Array) -> jax.Array:
            return jnp.take_along_axis(values, parent, 1)

        total = jnp.take_along_axis(totals.reshape(rows, -1), best, 1)
        done, lengths = of_parent(done), of_parent(longer)
        at_ids = jnp.broadcast_to(parent[..., None], ids.shape)
        ids = jnp.take_along_axis(ids, at_ids, 1)
        ids = ids.at[:, :, at].set(jnp.where(done, jnp.asarray(pad, jnp.int32), chosen))
        for one in stops:
            done = done | (chosen == one)
        carry = _taken(carry, axes, (jnp.broadcast_to(firsts, parent.shape) + parent).reshape(-1))
        return at + 1, carry, chosen, ids, done, lengths, total

    copies = jnp.repeat(jnp.arange(rows), beams)
    begin = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf).astype(jnp.float32)
    loop = (
        jnp.zeros((), jnp.int32),
        _taken(writer.carry, axes, copies),
        writer.last[copies].reshape(rows, beams),
        jnp.full((rows, beams, steps), pad, jnp.int32),
        jnp.zeros((rows, beams), bool),
        jnp.zeros((rows, beams), jnp.int32),
        jnp.broadcast_to(begin, (rows, beams)),
    )
    _, _, _, ids, _, lengths, total = lax.while_loop(going_on, step, loop)
    places = jnp.broadcast_to(jnp.arange(steps), ids.shape)
    valid = places < jnp.broadcast_to(lengths[..., None], ids.shape)
    mask = valid & jnp.broadcast_to((total > -jnp.inf)[..., None], ids.shape)
    scores = total / _penalty(lengths, length_penalty)
    return Beams(jnp.where(mask, ids, jnp.asarray(pad, jnp.int32)), mask, scores)


def _penalty(lengths: jax.Array, alpha: float) -> jax.Array:
    return ((5 + lengths.astype(jnp.float32)) / 6) ** alpha


def _batch_axes(writer: Writer, rows: int) -> Any:
    """For each array of the carry the axis of its rows, -1 where it has none.

    It need not be the first: under ``repeat`` that is the copies'. It is the one that grows with
    the batch.

    Raises:
      LayerError: where several do, or one by something else.
    """

    def axis(few: Any, many: Any) -> int:
        grown = [i for i, n in enumerate(few.shape) if many.shape[i] != n]
        if len(grown) > 1 or any(few.shape[i] != rows for i in grown):
            raise LayerError(
                "a carry has no axis of its own for the batch",
                got=f"{format_spec(few)}, {format_spec(many)}",
            )
        return grown[0] if grown else -1

    few, many = (jax.eval_shape(lambda n=n: writer.start(n)) for n in (rows, rows + 1))
    return jax.tree.map(axis, few, many)


def _taken(carry: Any, axes: Any, rows: jax.Array) -> Any:
    """The carry of these rows."""
    return jax.tree.map(
        lambda leaf, axis: leaf if axis < 0 else jnp.take(leaf, rows, axis=axis), carry, axes
    )
