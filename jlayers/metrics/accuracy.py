"""How many predictions are right."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import TrainingError, public_api
from ..base.sequence import Sequence
from ..losses.inputs import classified, examples
from .mean import of_values
from .metric import Metric


@public_api
def accuracy(
    logits: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    top: int = 1,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    ignore_label: int | None = None,
) -> Metric:
    """The share of labels that are among the ``top`` classes with the largest logits.

    Of classes with equal logits, the first comes first.

    Args:
      logits: (..., classes), logits or probabilities, or a ``Sequence``, whose padding does not
        count.
      labels: integers (...).
      top: how many classes may be named.
      mask: bool, of the first axes of the labels; True for what counts.
      weights: numbers, of the first axes of the labels.
      ignore_label: labels of this value do not count.

    Raises:
      TrainingError: for shapes that do not fit, and labels that are not integers.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> logits = jnp.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    >>> [float(metrics.accuracy(logits, jnp.array([2, 0]), top=n).value()) for n in (1, 2)]
    [0.5, 1.0]
    """
    top = arguments.positive("top", top)
    y, target, own = classified("accuracy", logits, labels, mask, weights, -1, ignore_label)
    integer_labels("accuracy", target)
    number = jax.lax.broadcasted_iota(target.dtype, y.shape, y.ndim - 1)
    label = target[..., None]
    score = jnp.take_along_axis(y, label, -1, mode="fill")
    # Not by sorting: the rank of one class is a count.
    before = (y > score) | ((y == score) & (number < label))
    right = (before.sum(-1) < top) & jnp.isfinite(score[..., 0])
    return of_values(right.astype(y.dtype), own)


@public_api
def binary_accuracy(
    predictions: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    threshold: float = 0.5,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
) -> Metric:
    """The share of values that are above the threshold where the label is true, and only there.

    Args:
      predictions: probabilities of any shape (for logits the threshold is 0), or a ``Sequence``,
        whose padding does not count.
      labels: bools, or numbers 0 and 1, of the same shape.
      threshold: what counts as true lies above it.
      mask: bool, of the first axes; True for what counts.
      weights: numbers, of the first axes.

    Raises:
      TrainingError: for shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> float(metrics.binary_accuracy(jnp.array([0.2, 0.9]), jnp.array([True, True])).value())
    0.5
    """
    threshold = arguments.any_number("threshold", threshold)
    y, target, own = examples("binary_accuracy", predictions, labels, mask, weights)
    return of_values(((y > threshold) == (target.astype(y.dtype) > 0)).astype(y.dtype), own)


def integer_labels(what: str, target: jax.Array) -> None:
    """Raises a ``TrainingError`` for labels that are probabilities."""
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise TrainingError(
            f"{what}: labels must be integers", got=str(target.dtype), hint="labels.argmax(-1)"
        )
