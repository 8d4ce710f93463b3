"""Cross-entropy of yes or no."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import TrainingError, public_api
from ..base.sequence import Sequence
from ..base.specs import format_spec, specs_of
from .inputs import examples
from .weighted_mean import Reduction, reduce


@public_api
def binary_cross_entropy(
    logits: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    positive_weight: jax.typing.ArrayLike = 1.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> jax.Array:
    """``-p * w * log sigmoid(logits) - (1 - p) * log sigmoid(-logits)``, the mean of what counts.

    As ``torch.nn.BCEWithLogitsLoss``.

    Args:
      logits: of any shape, or a ``Sequence``, whose padding does not count.
      labels: bools, integers 0 and 1, or probabilities, of the same shape.
      mask: bool, of the first axes of the logits; True for what counts.
      weights: numbers, of the first axes of the logits.
      positive_weight: w, a number or one for each value of the last axis.
      label_smoothing: s makes of a label p ``p * (1 - s) + s / 2``.
      reduction: "mean", "sum", or "none" for the loss of each value.

    Returns:
      A scalar, or the shape of the logits; at least float32.

    Raises:
      TrainingError: for shapes that do not fit.
      LayerError: for a smoothing outside [0, 1].

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> round(float(losses.binary_cross_entropy(jnp.zeros(3), jnp.array([0, 1, 1]))), 4)
    0.6931
    """
    what = "binary_cross_entropy"
    arguments.number("label_smoothing", label_smoothing, most=1)
    y, target, own = examples(what, logits, labels, mask, weights)
    p = target.astype(y.dtype)
    p = p * (1 - label_smoothing) + label_smoothing / 2
    w = jnp.asarray(positive_weight, y.dtype)
    if w.shape not in ((), y.shape[-1:]):
        raise TrainingError(
            f"{what}: positive_weight must be a number, or one for each value of the last axis",
            expected=f"[] or {list(y.shape[-1:])}",
            got=format_spec(specs_of(w)),
        )
    w = w.reshape((1,) * (y.ndim - w.ndim) + w.shape)
    loss = -(p * w * jax.nn.log_sigmoid(y) + (1 - p) * jax.nn.log_sigmoid(-y))
    return reduce(what, loss, own, reduction)
