"""The overlap of two regions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import public_api
from .inputs import examples
from .weighted_mean import Reduction, reduce


@public_api
def dice(
    probabilities: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    mask: jax.typing.ArrayLike | None = None,
    false_positive_weight: float = 0.5,
    false_negative_weight: float = 0.5,
    smooth: float = 1.0,
    reduction: Reduction = "mean",
) -> jax.Array:
    """``1 - overlap`` of each row and class, and the mean of them.

    With ``both = sum(p * label)`` over the positions of a row, the overlap is ``(both + smooth) /
    (both + a * sum(p * (1 - label)) + b * sum((1 - p) * label) + smooth)``. It is the soft Dice
    coefficient with a = b = 1/2, with ``smooth / 2`` in place of ``smooth`` (Milletari et al.,
    2016); other weights make it the Tversky index (Salehi et al., 2017).

    Args:
      probabilities: (batch, *spatial, classes).
      labels: the same shape: bools, 0 and 1, or probabilities.
      mask: bool, of the first axes; False for positions that do not count.
      false_positive_weight: a.
      false_negative_weight: b.
      smooth: keeps empty regions from dividing by zero, and their overlap at 1.
      reduction: "mean", "sum", or "none" for the loss of each row and class.

    Returns:
      A scalar, or (batch, classes); at least float32.

    Raises:
      TrainingError: for shapes that do not fit.
      LayerError: for negative weights.

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> labels = jnp.array([[[1], [1], [0]]])
    >>> float(losses.dice(jnp.array([[[1.0], [0.0], [0.0]]]), labels, smooth=0.0))
    0.3333333134651184
    """
    what = "dice"
    a = arguments.number("false_positive_weight", false_positive_weight)
    b = arguments.number("false_negative_weight", false_negative_weight)
    smooth = arguments.number("smooth", smooth)
    p, target, weights = examples(what, probabilities, labels, mask, None)
    target = target.astype(p.dtype)
    own = jnp.ones_like(p) if weights is None else weights
    axes = tuple(range(1, p.ndim - 1))
    both = (own * p * target).sum(axes)
    wrong = a * (own * p * (1 - target)).sum(axes) + b * (own * (1 - p) * target).sum(axes)
    loss = 1 - (both + smooth) / (both + wrong + smooth)
    return reduce(what, loss, None, reduction)
