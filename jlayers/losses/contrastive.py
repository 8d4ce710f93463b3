"""Pairs that belong together among those that do not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import TrainingError, public_api
from ..base.specs import format_spec, specs_of
from ..core.dtypes import at_least_float32
from .cross_entropy import cross_entropy
from .weighted_mean import Reduction


@public_api
def info_nce(
    queries: jax.typing.ArrayLike,
    keys: jax.typing.ArrayLike,
    *,
    temperature: jax.typing.ArrayLike = 0.1,
    symmetric: bool = False,
    normalize: bool = True,
    mask: jax.typing.ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """The cross-entropy of finding each query's own key among all keys (van den Oord et al., 2018).

    Args:
      queries: (batch, features).
      keys: (batch, features); row i belongs to query i, and all others are negatives. Further rows
        (more than the queries have) are negatives for all.
      temperature: what the cosines are divided by; a number, or a parameter that is trained.
      symmetric: the mean of both directions, as CLIP has it (Radford et al., 2021).
      normalize: whether the rows are brought to length 1 first.
      mask: bool (batch,); rows of padding are neither queries nor negatives.
      reduction: "mean", "sum", or "none" for the loss of each query.

    Returns:
      A scalar, or (batch,); at least float32.

    Raises:
      TrainingError: for shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> loss = losses.info_nce(jnp.eye(3), jnp.eye(3), temperature=0.1)
    >>> round(float(loss), 6)
    9.1e-05
    """
    q, k = (jnp.asarray(value) for value in (queries, keys))
    fits = q.ndim == k.ndim == 2 and q.shape[1] == k.shape[1] and len(k) >= len(q)
    if not fits or (symmetric and len(q) != len(k)):
        raise TrainingError(
            "info_nce: queries and keys must be pairs of rows",
            expected="(batch, features) twice",
            got=f"{format_spec(specs_of(q))} and {format_spec(specs_of(k))}",
        )
    for x in (q, k):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TrainingError(
                "info_nce: queries and keys must be floating", got=format_spec(specs_of(x))
            )
    kept = jnp.ones(len(q), bool) if mask is None else jnp.asarray(mask)
    if kept.dtype != bool or kept.shape != (len(q),):
        raise TrainingError(
            "info_nce: the mask must be bool, one for each query",
            expected=f"bool[{len(q)}]",
            got=format_spec(specs_of(kept)),
        )

    dtype = at_least_float32(jnp.result_type(q.dtype, k.dtype))
    q, k = q.astype(dtype), k.astype(dtype)
    if mask is not None:
        # Whatever is in a row of padding, NaN included, it has neither value nor gradient.
        own_keys = jnp.concatenate([kept, jnp.ones(len(k) - len(q), bool)])
        q, k = jnp.where(kept[:, None], q, 0), jnp.where(own_keys[:, None], k, 0)
    if normalize:
        q, k = _of_length_one(q), _of_length_one(k)
    scores = q @ k.T / jnp.asarray(temperature, dtype)
    own = jnp.arange(len(q), dtype=jnp.int32)
    lowest = float(np.finfo(dtype).min)

    def one_way(scores: jax.Array) -> jax.Array:
        ends = jnp.ones(scores.shape[1] - len(q), bool)
        among = jnp.where(jnp.concatenate([kept, ends]), scores, lowest)
        return cross_entropy(among, own, mask=mask, reduction=reduction)

    return (one_way(scores) + one_way(scores.T)) / 2 if symmetric else one_way(scores)


def _of_length_one(x: jax.Array) -> jax.Array:
    """Rows of zeros stay as they are: their norm has no slope."""
    squared = jnp.sum(x * x, axis=1, keepdims=True)
    there = squared > 0
    return x * jnp.where(there, jax.lax.rsqrt(jnp.where(there, squared, 1)), 1)
