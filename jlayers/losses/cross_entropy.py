"""Cross-entropy of class probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import public_api
from ..base.sequence import Sequence
from .inputs import classified, weights_of_classes
from .weighted_mean import Reduction, reduce


@public_api
def cross_entropy(
    logits: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    class_weights: jax.typing.ArrayLike | None = None,
    ignore_label: int | None = None,
    label_smoothing: float = 0.0,
    axis: int = -1,
    reduction: Reduction = "mean",
) -> jax.Array:
    """``-log softmax(logits)[label]``, the mean of what counts.

    As ``torch.nn.CrossEntropyLoss``, with the classes on the last axis. A label outside the classes
    that is not ``ignore_label`` gives NaN.

    Args:
      logits: (..., classes), or a ``Sequence``, whose padding does not count.
      labels: integers (...), or probabilities (..., classes).
      mask: bool, of the first axes of the examples; True for what counts.
      weights: numbers, of the first axes of the examples.
      class_weights: (classes,). The mean is divided by the weights of the labels, as PyTorch does.
      ignore_label: integer labels of this value do not count.
      label_smoothing: the share of each label that all classes have in equal parts, 0 to 1.
      axis: where the classes are.
      reduction: "mean", "sum", or "none" for the loss of each example.

    Returns:
      A scalar, or (...); at least float32.

    Raises:
      TrainingError: for shapes that do not fit.
      LayerError: for a smoothing outside [0, 1].

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> logits, labels = jnp.zeros((2, 4)), jnp.array([1, -100])
    >>> round(float(losses.cross_entropy(logits, labels, ignore_label=-100)), 4)
    1.3863
    """
    what = "cross_entropy"
    arguments.number("label_smoothing", label_smoothing, most=1)
    given = classified(what, logits, labels, mask, weights, axis, ignore_label)
    log_p = jax.nn.log_softmax(given.predictions, axis)
    per_class = None
    if class_weights is not None:
        per_class = weights_of_classes(what, class_weights, log_p.shape[axis], log_p.dtype)
    loss, own = of_probabilities(log_p, given.labels, per_class, label_smoothing, axis)
    total = None
    if own is not None:
        total = (own if given.weights is None else own * given.weights).sum()
    return reduce(what, loss, given.weights, reduction, total)


def of_probabilities(
    log_p: jax.Array,
    target: jax.Array,
    per_class: jax.Array | None,
    label_smoothing: float,
    axis: int,
) -> tuple[jax.Array, jax.Array | None]:
    """The loss of each example, and what its label weighs in the mean where classes have weights.

    Args:
      log_p: logarithms of the classes' probabilities, along ``axis``.
      target: indices of classes, or probabilities.
      per_class: the weights of classes.
    """
    along = [1] * log_p.ndim
    along[axis] = log_p.shape[axis]
    weighted = log_p if per_class is None else log_p * per_class.reshape(along)
    if jnp.issubdtype(target.dtype, jnp.integer):
        index = jnp.expand_dims(target, axis)
        loss = -jnp.take_along_axis(weighted, index, axis, mode="fill").squeeze(axis)
        own = None if per_class is None else per_class.at[target].get(mode="fill")
    else:
        loss, own = -(weighted * target.astype(log_p.dtype)).sum(axis), None
    if label_smoothing:
        uniform = -weighted.mean(axis)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return loss, own
