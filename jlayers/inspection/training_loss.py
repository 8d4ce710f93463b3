"""The loss of a model in training, as a function of its parameters that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from ..base.errors import TrainingError, calling_user_code
from ..base.layer import Layer
from ..base.specs import format_short, specs_of
from ..base.types import Params, PyTree, State

# (x, *targets)
Batch: TypeAlias = tuple[PyTree, ...]
Metrics: TypeAlias = dict[str, jax.Array]
# Of the model's output and the targets: a scalar, or a scalar and further metrics.
LossFunction: TypeAlias = Callable[..., object]
# The metrics that a training step adds by itself.
_RESERVED = ("loss", "grad_norm", "learning_rate", "loss_scale", "skipped")


def training_loss(
    model: Layer,
    loss: LossFunction,
    params: Params,
    state: State,
    key: jax.Array,
    batch: Batch,
    scale: jax.Array | None = None,
) -> tuple[jax.Array, tuple[State, Metrics]]:
    """The loss of one batch, and beside it the new state and the metrics, the loss among them.

    With a ``scale`` the first is the loss times the scale, in the scale's dtype; the metric "loss"
    is not scaled.

    Raises:
      TrainingError: where ``loss`` does not return a floating scalar.
    """
    x, *targets = batch
    y, new_state = model.apply(params, state, x, key=key, train=True)
    value, metrics = _call(loss, y, targets)
    metrics = {"loss": value, **metrics}
    return value if scale is None else value.astype(scale.dtype) * scale, (new_state, metrics)


def _call(loss: LossFunction, y: PyTree, targets: list[PyTree]) -> tuple[jax.Array, Metrics]:
    with calling_user_code("the loss", TrainingError):
        result = loss(y, *targets)
    value: Any = result
    metrics: Metrics = {}
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
        value, metrics = result
    spec = specs_of(value) if isinstance(value, jax.Array) else None
    if spec is None or spec.shape or not jnp.issubdtype(spec.dtype, jnp.floating):
        raise TrainingError(
            "the loss must return a scalar",
            expected="a floating scalar, or (scalar, dict of metrics)",
            got=format_short(result),
            hint=".mean() of a loss for each example" if spec is not None and spec.shape else None,
        )
    for name in _RESERVED:
        if name in metrics:
            raise TrainingError(f"the metrics have a {name!r} already", hint="another name for it")
    return value, metrics
