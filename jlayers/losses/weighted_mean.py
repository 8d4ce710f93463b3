"""The mean of values of which not all count alike, and the three reductions of all losses."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import public_api
from ..base.sequence import Sequence
from .inputs import examples

Reduction: TypeAlias = Literal["mean", "sum", "none"]


@public_api
def weighted_mean(
    values: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """``sum(weights * values) / sum(weights)``, and 0 where nothing counts.

    Args:
      values: of any shape; the padding of a ``Sequence`` does not count.
      mask: bool, of the first axes of the values; True for what counts.
      weights: numbers, of the first axes of the values.

    Raises:
      TrainingError: for a mask or weights of another shape, and integer values.

    >>> import jax.numpy as jnp, optax
    >>> from jlayers import losses
    >>> y, target = jnp.array([1.0, 2.0, jnp.nan]), jnp.array([0.0, 0.0, 0.0])
    >>> float(losses.weighted_mean(optax.squared_error(y, target), mask=jnp.array([1, 1, 0]) > 0))
    2.5
    """
    array = values.values if isinstance(values, Sequence) else jnp.asarray(values)
    given = examples("weighted_mean", values, jnp.zeros_like(array), mask, weights)
    return reduce("weighted_mean", given.predictions, given.weights, "mean")


def reduce(
    what: str,
    values: jax.Array,
    weights: jax.Array | None,
    reduction: Reduction,
    total: jax.Array | None = None,
) -> jax.Array:
    """Losses of all examples by one of the reductions.

    Args:
      weights: of the examples, which the values do not have yet.
      total: what the sum is divided by; by default the sum of the weights.

    Raises:
      LayerError: for another reduction.
    """
    arguments.one_of("reduction", reduction, ("mean", "sum", "none"))
    if weights is not None:
        values = jnp.where(weights == 0, 0, weights * values)
    if reduction == "none":
        return values
    if reduction == "sum":
        return values.sum()
    if total is None:
        total = jnp.asarray(values.size, values.dtype) if weights is None else weights.sum()
    return values.sum() / jnp.where(total == 0, 1, total)
