"""Cross-entropy that looks away from what is easy."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import public_api
from ..base.sequence import Sequence
from .cross_entropy import cross_entropy
from .inputs import classified, weights_of_classes
from .weighted_mean import Reduction, reduce


@public_api
def focal(
    logits: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    gamma: float = 2.0,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    class_weights: jax.typing.ArrayLike | None = None,
    axis: int = -1,
    reduction: Reduction = "mean",
) -> jax.Array:
    """``-(1 - p) ** gamma * log p`` of the label's probability p (Lin et al., 2017).

    For several classes; ``optax.losses.sigmoid_focal_loss`` is that of yes or no.

    Args:
      logits: (..., classes), or a ``Sequence``, whose padding does not count.
      labels: integers (...).
      gamma: 0 gives the cross-entropy.
      mask: bool, of the first axes of the examples; True for what counts.
      weights: numbers, of the first axes of the examples.
      class_weights: (classes,), the paper's alpha. They do not change what the mean is divided by.
      axis: where the classes are.
      reduction: "mean", "sum", or "none" for the loss of each example.

    Returns:
      A scalar, or (...); at least float32.

    Raises:
      TrainingError: for shapes that do not fit.
      LayerError: for a negative gamma.

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> round(float(losses.focal(jnp.zeros((3, 2)), jnp.array([0, 1, 1]))), 4)
    0.1733
    """
    what = "focal"
    gamma = arguments.number("gamma", gamma)
    y, target, own = classified(what, logits, labels, mask, weights, axis)
    minus_log_p = cross_entropy(y, target, axis=axis, reduction="none")
    # 1 - p without the digits that p loses near 1.
    rest = -jnp.expm1(-minus_log_p)
    # A power below 1 of zero has no slope: where p is 1 the loss and its gradient are 0.
    factor = (
        jnp.where(rest > 0, jnp.where(rest > 0, rest, 1) ** gamma, 0) if gamma < 1 else rest**gamma
    )
    loss = minus_log_p if gamma == 0 else factor * minus_log_p
    if class_weights is not None:
        loss = loss * weights_of_classes(what, class_weights, y.shape[axis], y.dtype).at[
            target
        ].get(mode="fill")
    return reduce(what, loss, own, reduction)
