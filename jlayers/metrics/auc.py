"""The area under the curve of true over false positives, or of precision over recall."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import public_api
from ..base.sequence import Sequence
from ..losses.inputs import examples
from .metric import Metric


@public_api
def auc(
    predictions: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    curve: Literal["roc", "precision_recall"] = "roc",
    bins: int = 1000,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
) -> Metric:
    """The area under the curve that a threshold draws as it falls from 1 to 0.

    Batches are added up as two histograms of the predictions, so that predictions in one bin count
    as equal: the ROC's area is exact for predictions that are multiples of ``1 / bins``, and within
    the share of pairs that meet in a bin otherwise. Logits are brought to probabilities first:
    ``jax.nn.sigmoid``.

    Args:
      predictions: probabilities, 0 to 1, of any shape, or a ``Sequence``, whose padding does not
        count.
      labels: bools, or numbers 0 and 1, of the same shape.
      curve: "roc", or "precision_recall" for the average precision (the sum of precision times the
        step in recall, as in scikit-learn).
      bins: of the histograms.
      mask: bool, of the first axes; True for what counts.
      weights: numbers, of the first axes.

    Raises:
      TrainingError: for shapes that do not fit.
      LayerError: for another curve.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> predictions, labels = jnp.array([0.1, 0.4, 0.35, 0.8]), jnp.array([0, 0, 1, 1])
    >>> float(metrics.auc(predictions, labels).value())
    0.75
    """
    arguments.one_of("curve", curve, ("roc", "precision_recall"))
    bins = arguments.positive("bins", bins)
    y, target, own = examples("auc", predictions, labels, mask, weights)
    y, target = y.reshape(-1), target.reshape(-1).astype(y.dtype) > 0
    weight = jnp.ones_like(y) if own is None else own.reshape(-1)
    # A NaN among the predictions makes the metric NaN.
    weight = jnp.where(jnp.isnan(y), jnp.nan, weight)
    place = jnp.clip(jnp.nan_to_num(y) * bins, 0, bins).round().astype(jnp.int32)
    index = jnp.where(target, place, place + bins + 1)
    counts = jnp.zeros(2 * (bins + 1), y.dtype).at[index].add(weight)
    finish: Any = _roc if curve == "roc" else _average_precision
    return Metric({"positive": counts[: bins + 1], "negative": counts[bins + 1 :]}, finish)


def _roc(sums: dict[str, jax.Array]) -> jax.Array:
    """The share of pairs of a positive and a negative in which the positive is higher."""
    positive, negative = sums["positive"], sums["negative"]
    below = jnp.cumsum(negative) - negative
    pairs = (positive * (below + negative / 2)).sum()
    return pairs / (positive.sum() * negative.sum())


def _average_precision(sums: dict[str, jax.Array]) -> jax.Array:
    positive, negative = (sums[name][::-1] for name in ("positive", "negative"))
    found, wrong = jnp.cumsum(positive), jnp.cumsum(negative)
    total = found + wrong
    share = jnp.where(total == 0, 0, found / jnp.where(total == 0, 1, total))
    return (share * positive).sum() / positive.sum()
