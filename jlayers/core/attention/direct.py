"""All scores at once: attention as it is defined, with everything that can be asked of it.

How to read this file: ``direct`` is the method of this name, ``attend_to_cached`` the same for keys
and values as a cache has them. Both make scores by ``_masked_scores`` and weights by ``_weights``.
``ScoreTerms`` is what no other method knows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..dtypes import at_least_float32, is_sharded, sharded_as
from .blockwise import ScoreOptions
from .mask import AttentionMask
from .relative import RelativeTables


class ScoreTerms(NamedTuple):
    """What only a method that has all scores can take.

    Attributes:
      bias: added to the scores, broadcastable to (batch, num_heads, T, S).
      sinks: (num_heads,), the score of one more key without a value.
      relative: tables by distance.
      key: for the random choice of dropped weights.
      rate: the probability with which a weight is dropped.
    """

    bias: jax.Array | None = None
    sinks: jax.Array | None = None
    relative: RelativeTables | None = None
    key: jax.Array | None = None
    rate: float = 0.0

    @property
    def any(self) -> bool:
        """Whether there is such a thing at all."""
        return self.key is not None or any(term is not None for term in self[:3])


NO_TERMS = ScoreTerms()


def direct(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    options: ScoreOptions,
    terms: ScoreTerms = NO_TERMS,
) -> jax.Array:
    """(batch, T, num_heads, value_dim)."""
    return with_weights(q, k, v, mask, options, terms)[0]


def with_weights(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: AttentionMask,
    options: ScoreOptions,
    terms: ScoreTerms = NO_TERMS,
) -> tuple[jax.Array, jax.Array]:
    """``direct``, and the weights before any is dropped, (batch, K, N / K, T, S)."""
    batch, steps, num_heads, head_dim = q.shape
    keys = k.shape[1]
    wide = at_least_float32(q.dtype)
    grouped = q.reshape(batch, steps, mask.num_kv_heads, mask.groups, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=wide)
    grouped_shape, shape = scores.shape, (batch, num_heads, steps, keys)
    scores = _masked_scores(scores.reshape(shape), q, mask, options, terms)
    weights = _weights(scores, grouped_shape, terms.sinks).astype(q.dtype)
    used = _dropped(weights, terms)
    out = jnp.einsum("bkgts,bskh->btkgh", used, v).reshape(*q.shape[:3], v.shape[-1])
    out = _with_relative_values(out, used.reshape(shape), mask, terms)
    return zero_empty(out, mask.full(steps, keys)) if mask.may_be_empty else out, weights


def attend_to_cached(
    q: jax.Array,
    k: Sequence[jax.Array],
    v: Sequence[jax.Array],
    mask: AttentionMask,
    options: ScoreOptions,
    terms: ScoreTerms = NO_TERMS,
) -> jax.Array:
    """``direct`` to keys and values as a cache has them.

    They may be in several arrays, which are not joined.

    Args:
      q: (batch, T, num_heads, head_dim).
      k, v: (batch, num_kv_heads, S_i, size) each; S below is the sum of the S_i.
      mask, options, terms: as for ``direct``.
    """
    batch, steps, num_heads, head_dim = q.shape
    num_kv_heads, groups, size = mask.num_kv_heads, mask.groups, v[0].shape[-1]
    keys = sum(part.shape[2] for part in k)
    # Three axes, in the order of the products: of four, XLA for CPU may choose another layout for
    # the cache, which it then copies (docs/notes/0015-decoding.md). A mesh may split two of them.
    leading = (batch, num_kv_heads) if is_sharded(k[0]) else (batch * num_kv_heads,)
    folded = (*leading, groups * steps)
    rows = q.reshape(batch, steps, num_kv_heads, groups, head_dim)
    rows = rows.transpose(0, 2, 3, 1, 4).reshape(*folded, head_dim)
    k, v = ([part.reshape(*leading, *part.shape[2:]) for part in parts] for parts in (k, v))
    wide = at_least_float32(q.dtype)
    products = [
        jnp.einsum("...th,...sh->...ts", rows, part, preferred_element_type=wide) for part in k
    ]
    scores = products[0] if len(k) == 1 else jnp.concatenate(products, -1)
    shape = (batch, num_heads, steps, keys)
    scores = _masked_scores(scores.reshape(shape), q, mask, options, terms)
    weights = _weights(scores, shape, terms.sinks).astype(q.dtype)
    used = _dropped(weights, terms)
    weights = used.reshape(*folded, keys)
    ends = np.cumsum([part.shape[-2] for part in v])[:-1]
    split = [weights] if len(v) == 1 else jnp.split(weights, ends, -1)
    outs = [jnp.einsum("...ts,...sh->...th", w, part) for w, part in zip(split, v, strict=True)]
    out = functools.reduce(jnp.add, outs).reshape(batch, num_kv_heads, groups, steps, size)
    out = out.transpose(0, 3, 1, 2, 4).reshape(*q.shape[:3], size)
    out = _with_relative_values(out, used, mask, terms)
    return zero_empty(out, mask.full(steps, keys))


def masked_mean(
    scores: jax.Array,
    v: jax.Array,
    visible: jax.Array | None,
    bias: jax.Array | None,
    rate: float,
    key: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Values weighted by the softmax of any scores, and the weights before any is dropped.

    Args:
      scores: (batch, num_heads, T, S).
      v: (batch, S, num_heads, value_dim).
      visible: bools, broadcastable to the scores; zeros where a query attends to no key.
      bias: added to the scores.
      rate, key: of the weights that are dropped; none without a key.

    Returns:
      ((batch, T, num_heads, value_dim), (batch, num_heads, T, S)), of the dtype of ``v``.
    """
    if v.shape[1] == 0:  # an empty softmax has no largest score
        out = jnp.zeros_like(v, shape=(*scores.shape[:1], scores.shape[2], *v.shape[2:]))
        return out, jnp.zeros_like(v, shape=scores.shape)
    scores = scores.astype(at_least_float32(scores.dtype))
    visible = shown_by_bias(visible, bias)
    if bias is not None:
        scores = scores + jnp.broadcast_to(bias.astype(scores.dtype), scores.shape)
    scores = _hidden(scores, visible)
    weights = jax.nn.softmax(scores).astype(v.dtype)
    if visible is not None:
        seen = sharded_as(jnp.broadcast_to(visible, weights.shape), weights)
        weights = jnp.where(seen, weights, jnp.zeros_like(weights))
    used = _dropped(weights, ScoreTerms(key=key, rate=rate))
    return jnp.einsum("bnts,bsnh->btnh", used, v), weights


def shown_by_bias(visible: jax.Array | None, bias: jax.Array | None) -> jax.Array | None:
    """The mask without the keys at which the bias is minus infinity.

    Where those are all that a query sees, the softmax would be over the keys that are hidden, whose
    scores are low and finite.
    """
    if bias is None:
        return visible
    shown = four_axes(bias) > -jnp.inf
    if visible is None:
        return shown
    visible = four_axes(visible)
    shape = jnp.broadcast_shapes(visible.shape, shown.shape)
    return jnp.broadcast_to(visible, shape) & jnp.broadcast_to(shown, shape)


def _masked_scores(
    products: jax.Array,
    q: jax.Array,
    mask: AttentionMask,
    options: ScoreOptions,
    terms: ScoreTerms,
) -> jax.Array:
    """Scores of products of queries and keys, (batch, num_heads, T, S)."""
    shape, wide = products.shape, products.dtype
    steps, keys = shape[2:]
    biases = [terms.bias]
    if terms.relative is not None:
        rows = terms.relative.rows(*mask.positions_of(steps, keys))
        further = terms.relative.products(q, rows)
        products = products if further is None else products + further.astype(wide)
        biases.append(terms.relative.bias_of(rows))
    scores = options.cap(products * options.scale)
    for term in (*biases, mask.full_bias(steps, keys, wide)):
        if term is not None:
            scores = scores + jnp.broadcast_to(four_axes(term).astype(wide), shape)
    return _hidden(scores, mask.full(steps, keys))


def _hidden(scores: jax.Array, visible: jax.Array | None) -> jax.Array:
    """The scores, very low where no key is visible."""
    if visible is None:
        return scores
    # Not minus infinity: the softmax of a row of them is NaN, and so is its gradient.
    lowest = np.array(
        0.5 * float(jnp.finfo(scores.dtype).min),  # type: ignore[no-untyped-call]
        scores.dtype,
    )
    seen = sharded_as(jnp.broadcast_to(visible, scores.shape), scores)
    return jnp.where(seen, scores, lowest)


def _weights(scores: jax.Array, shape: tuple[int, ...], sinks: jax.Array | None) -> jax.Array:
    """The softmax of scores (batch, num_heads, T, S), in another shape of these."""
    if sinks is None:
        return jax.nn.softmax(scores.reshape(shape))
    # One more key, whose weight is lost.
    of_heads = sinks.astype(scores.dtype)[None, :, None, None]
    sink = jnp.broadcast_to(of_heads, (*scores.shape[:3], 1))
    largest = jnp.maximum(jnp.max(scores, -1, keepdims=True), sink)
    largest = jax.lax.stop_gradient(largest)
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, -1, keepdims=True) + jnp.exp(sink - largest)
    return (weights / total).reshape(shape)


def _dropped(weights: jax.Array, terms: ScoreTerms) -> jax.Array:
    """The weights in training: some are zero, and the others larger by as much."""
    if terms.key is None:
        return weights
    keep = sharded_as(jax.random.bernoulli(terms.key, 1 - terms.rate, weights.shape), weights)
    return jnp.where(keep, weights / (1 - terms.rate), jnp.zeros_like(weights))


def _with_relative_values(
    out: jax.Array, weights: jax.Array, mask: AttentionMask, terms: ScoreTerms
) -> jax.Array:
    """The output with that of the rows of values added; ``weights`` are (batch, N, T, S)."""
    if terms.relative is None or terms.relative.values is None:
        return out
    rows = terms.relative.rows(*mask.positions_of(*weights.shape[2:]))
    further = terms.relative.of_values(weights, rows)
    return out if further is None else out + further


def zero_empty(out: jax.Array, visible: jax.Array | None) -> jax.Array:
    """Zeros for the queries that attend to no key."""
    assert visible is not None
    nonempty = jnp.any(visible, -1).swapaxes(1, 2)[..., None]
    nonempty = sharded_as(jnp.broadcast_to(nonempty, out.shape), out)
    return jnp.where(nonempty, out, jnp.zeros_like(out))


def four_axes(x: jax.Array) -> jax.Array:
    """With axes of size 1 in front."""
    return x.reshape((1,) * (4 - x.ndim) + x.shape)
