"""The loss of a model in training, as a function of its parameters that can be differentiated."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from ..base.added_losses import total
from ..base.collecting import collected
from ..base.errors import TrainingError, calling_user_code
from ..base.layer import Layer
from ..base.specs import format_short, format_spec, specs_of
from ..base.types import Params, PyTree, State
from ..metrics import Metric
from .aligned_targets import check_targets

# (x, *targets)
Batch: TypeAlias = tuple[PyTree, ...]
Metrics: TypeAlias = dict[str, jax.Array]
# Of the model's output and the targets, and of what it asks for by name: a scalar, or a scalar and
# further metrics.
LossFunction: TypeAlias = Callable[..., object]
# The metrics that a training step adds by itself.
_RESERVED = ("loss", "added_loss", "grad_norm", "learning_rate", "loss_scale", "skipped")
# What a loss, or what measures an evaluation, may ask for by an argument of this name.
_OFFERED = ("params", "state", "step", "key", "added_loss")
# Far from the indices of repeated layers and of parts, which are folded into the same key.
_LOSS_KEY = np.uint32(0xFFFFFFFE)


def training_loss(
    model: Layer,
    loss: LossFunction,
    params: Params,
    state: State,
    key: jax.Array,
    batch: Batch,
    scale: jax.Array | None = None,
    step: jax.typing.ArrayLike = 0,
) -> tuple[jax.Array, tuple[State, Metrics]]:
    """The loss of one batch, and beside it the new state and the metrics, the loss among them.

    With a ``scale`` the first is the loss times the scale, in the scale's dtype; the metric "loss"
    is not scaled.

    Raises:
      TrainingError: where ``loss`` does not return a floating scalar, and where it broadcasts a
        target against the output.
    """
    x, *targets = batch
    (y, new_state), (losses, _) = collected(
        lambda: model.apply(params, state, x, key=key, train=True)
    )
    result, added, own = call_with_offers(
        "the loss", loss, y, targets, losses, params=params, state=new_state, step=step, key=key
    )
    value, metrics = _checked(result)
    if added is not None:
        if not own:
            value = value + added.astype(value.dtype)
        metrics = {"added_loss": added, **metrics}
    metrics = {"loss": value, **metrics}
    return value if scale is None else value.astype(scale.dtype) * scale, (new_state, metrics)


def call_with_offers(
    what: str,
    function: Callable[..., Any],
    y: PyTree,
    targets: list[PyTree],
    losses: list[jax.Array],
    **offers: Any,
) -> tuple[Any, jax.Array | None, bool]:
    """``function(y, *targets)`` with those of the offers that it has arguments for.

    Args:
      what: for errors.
      losses: that layers added while they computed ``y``.
      **offers: ``params``, ``state``, ``step`` and ``key``; a key is folded first.

    Returns:
      What the function returned, the sum of the added losses, None for none, and whether the
      function took that sum itself.
    """
    asked = asked_by(function, len(targets))
    added = total(losses) if losses or "added_loss" in asked else None
    offers["added_loss"] = added
    if "key" in asked:
        if offers["key"] is None:
            raise TrainingError(f"{what} needs a key and got none", hint="make_evaluator(key=...)")
        # Not the key of the model's layers: what is drawn here is independent of them.
        offers["key"] = jax.random.fold_in(offers["key"], _LOSS_KEY)
    function = functools.partial(function, **{name: offers[name] for name in asked})
    check_targets(function, y, targets)

    def inputs() -> tuple[str, str | None]:
        return _described(y, targets), _call_hint(function, targets)

    with calling_user_code(what, TrainingError, inputs):
        return function(y, *targets), added, "added_loss" in asked


def _described(y: PyTree, targets: list[PyTree]) -> str:
    specs = ", ".join(format_spec(specs_of(target)) for target in targets)
    return f"y {format_spec(specs_of(y))}" + (f", targets {specs}" if targets else "")


def _call_hint(function: Callable[..., Any], targets: list[PyTree]) -> str | None:
    """How ``function`` is called, where it does not take the output and the targets."""
    try:
        inspect.signature(function).bind(None, *targets)
    except TypeError:
        last = targets[-1] if targets else None
        if isinstance(last, jax.Array) and last.dtype == bool and last.ndim == 1:
            return "last='pad' adds a last target, True for rows of the data: (y, *targets, valid)"
        return "it is called with the model's output and the targets of a batch: (y, *targets)"
    except ValueError:  # a builtin
        return None
    return None


def asked_by(function: Callable[..., Any], targets: int) -> tuple[str, ...]:
    """Which of the offers a function has arguments for that its targets do not fill."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return ()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    filled = {p.name for p in positional[: 1 + targets]}
    return tuple(
        p.name
        for p in parameters
        if p.name in _OFFERED
        and p.name not in filled
        and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        # A default other than None is a value that was chosen, by functools.partial for example.
        and (p.default is p.empty or p.default is None)
    )


def _checked(result: object) -> tuple[jax.Array, Metrics]:
    """The loss and the metrics of what a loss returned."""
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
    # Of the batch: a record of the loop is the mean of its steps.
    return value, {
        name: found.value() if isinstance(found, Metric) else found
        for name, found in metrics.items()
    }
