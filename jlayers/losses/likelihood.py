"""The likelihood of numbers: a normal distribution with a variance of its own, and counts."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import public_api
from ..base.sequence import Sequence
from .inputs import examples
from .weighted_mean import Reduction, reduce


@public_api
def gaussian_nll(
    mean: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    variance: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    epsilon: float = 1e-6,
    reduction: Reduction = "mean",
) -> jax.Array:
    """``(log variance + (mean - label) ** 2 / variance) / 2``, as ``torch.nn.GaussianNLLLoss``.

    Args:
      mean, labels, variance: of one shape, or a ``Sequence``, whose padding does not count. Values
        of the variance below ``epsilon`` are that, with the gradient of it as it is.
      mask: bool, of the first axes; True for what counts.
      weights: numbers, of the first axes.
      epsilon: the smallest variance.
      reduction: "mean", "sum", or "none" for the loss of each value.

    Raises:
      TrainingError: for shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> float(losses.gaussian_nll(jnp.array([1.0]), jnp.array([3.0]), jnp.array([1.0])))
    2.0
    """
    what = "gaussian_nll"
    arguments.number("epsilon", epsilon)
    y, target, own = examples(what, mean, labels, mask, weights)
    var, _, _ = examples(what, variance, labels, None, None)
    var = var if own is None else jnp.where(own == 0, 1, var)
    # The value alone is limited: a gradient still pulls too small a variance up.
    var = var + jax.lax.stop_gradient(jnp.maximum(var, epsilon) - var)
    loss = (jnp.log(var) + (y - target.astype(y.dtype)) ** 2 / var) / 2
    return reduce(what, loss, own, reduction)


@public_api
def poisson_nll(
    log_rate: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    full: bool = False,
    reduction: Reduction = "mean",
) -> jax.Array:
    """``exp(log_rate) - label * log_rate``, as ``torch.nn.PoissonNLLLoss``.

    Args:
      log_rate, labels: of one shape, or a ``Sequence``, whose padding does not count.
      mask: bool, of the first axes; True for what counts.
      weights: numbers, of the first axes.
      full: whether ``log(label!)``, by Stirling's formula above 1, is added.
      reduction: "mean", "sum", or "none" for the loss of each value.

    Raises:
      TrainingError: for shapes that do not fit.

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> float(losses.poisson_nll(jnp.array([0.0]), jnp.array([2.0])))
    1.0
    """
    what = "poisson_nll"
    y, target, own = examples(what, log_rate, labels, mask, weights)
    n = target.astype(y.dtype)
    loss = jnp.exp(y) - n * y
    if full:
        more = jnp.maximum(n, 1)
        stirling = more * jnp.log(more) - more + jnp.log(2 * math.pi * more) / 2
        loss = loss + jnp.where(n > 1, stirling, 0)
    return reduce(what, loss, own, reduction)
