"""Means over all examples, and what is made of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..base.errors import public_api
from ..base.sequence import Sequence
from ..core.dtypes import at_least_float32
from ..losses import cross_entropy
from ..losses.inputs import classified, examples
from .metric import Metric


def _divide(sums: dict[str, jax.Array]) -> jax.Array:
    return sums["total"] / sums["weight"]


def _exp(sums: dict[str, jax.Array]) -> jax.Array:
    return jnp.exp(_divide(sums))


def _explained(sums: dict[str, jax.Array]) -> jax.Array:
    near = sums["near_square"] - sums["near"] ** 2 / sums["weight"]
    # What was added up leaf by leaf, as psum does, is about no number any more.
    far = sums["square"] - sums["total"] ** 2 / sums["weight"]
    return 1 - sums["residual"] / jnp.where(sums["parts"] > 1, far, near)


def _about_first(first: dict[str, jax.Array], second: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The sums of both, with those about the shift of the second moved to that of the first."""
    shift = jnp.where(first["weight"] > 0, first["shift"], second["shift"])
    sums = {name: first[name] + second[name] for name in first}
    near, square = jnp.zeros_like(shift), jnp.zeros_like(shift)
    for part in (first, second):
        # Nothing has no shift, and moves nothing.
        by = jnp.where(part["weight"] > 0, part["shift"] - shift, 0)
        near = near + part["near"] + part["weight"] * by
        square = square + part["near_square"] + (2 * part["near"] + part["weight"] * by) * by
    parts = jnp.maximum(first["parts"], second["parts"])
    return sums | {"shift": shift, "near": near, "near_square": square, "parts": parts}


def of_values(values: jax.Array, weights: jax.Array | None, finish: Any = _divide) -> Metric:
    """The mean of values that have been checked."""
    values = values.astype(at_least_float32(values.dtype))
    own = jnp.ones(values.shape, values.dtype) if weights is None else weights
    total = jnp.where(own == 0, 0, own * values).sum()
    return Metric({"total": total, "weight": own.sum()}, finish)


@public_api
def mean(
    values: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
) -> Metric:
    """The mean of all values: of losses of each example, for instance.

    Args:
      values: floating, of any shape; the padding of a ``Sequence`` does not count.
      mask: bool, of the first axes; True for what counts.
      weights: numbers, of the first axes.

    Raises:
      TrainingError: for a mask or weights of another shape.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> float(metrics.mean(jnp.array([1.0, 2.0, 6.0]), weights=jnp.array([1.0, 1.0, 2.0])).value())
    3.75
    """
    array = values.values if isinstance(values, Sequence) else jnp.asarray(values)
    given = examples("mean", values, jnp.zeros_like(array), mask, weights)
    return of_values(given.predictions, given.weights)


@public_api
def perplexity(
    logits: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    ignore_label: int | None = None,
) -> Metric:
    """``exp`` of the mean cross-entropy of all labels, in nats.

    Args:
      logits: (..., classes), or a ``Sequence``, whose padding does not count.
      labels: integers (...).
      mask, weights, ignore_label: as for ``losses.cross_entropy``.

    Raises:
      TrainingError: for shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> round(float(metrics.perplexity(jnp.zeros((2, 3, 8)), jnp.zeros((2, 3), int)).value()), 4)
    8.0
    """
    y, target, own = classified("perplexity", logits, labels, mask, weights, -1, ignore_label)
    return of_values(cross_entropy(y, target, reduction="none"), own, _exp)


@public_api
def r2_score(
    predictions: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
) -> Metric:
    """``1 - sum((label - y) ** 2) / sum((label - mean(label)) ** 2)``, of all values as one.

    Sums are of labels about a mean of some of them, so that they keep their digits where labels lie
    far from zero. ``+`` knows how these go together; ``jax.lax.psum`` does not, and leaves the sums
    about zero, which lose theirs in float32.

    Args:
      predictions, labels: of one shape, or a ``Sequence``, whose padding does not count.
      mask: bool, of the first axes; True for what counts.
      weights: numbers, of the first axes.

    Raises:
      TrainingError: for shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> float(metrics.r2_score(jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0])).value())
    0.5
    """
    y, target, own = examples("r2_score", predictions, labels, mask, weights)
    own = jnp.ones_like(y) if own is None else own
    target = jnp.where(own == 0, 0, target.astype(y.dtype))
    total, weight = (own * target).sum(), own.sum()
    shift = jax.lax.stop_gradient(total / jnp.where(weight == 0, 1, weight))
    near = jnp.where(own == 0, 0, target - shift)
    sums = {
        "residual": own * (target - y) ** 2,
        "square": own * target**2,
        "near": own * near,
        "near_square": own * near**2,
    }
    return Metric(
        {name: value.sum() for name, value in sums.items()}
        | {"total": total, "weight": weight, "shift": shift, "parts": jnp.ones_like(weight)},
        _explained,
        _about_first,
    )
