"""The gradient of a model's loss over a batch, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..base.errors import TrainingError, calling_user_code
from ..base.layer import Layer
from ..base.specs import (
    Params,
    PyTree,
    State,
    format_short,
    format_spec,
    specs_of,
)
from .trainable import merge, split

Metrics = dict[str, jax.Array]
# What the step itself measures.
_OWN = ("loss", "grad_norm", "learning_rate", "loss_scale", "skipped")
LossFunction = Callable[..., Any]


def gradient_of(
    model: Layer,
    loss: LossFunction,
    frozen: tuple[str, ...],
    params: Params,
    state: State,
    key: jax.Array,
    batch: Any,
    scale: jax.Array | None,
) -> tuple[PyTree, State, Metrics]:
    """The gradient by the trained parameters, the new state, and the metrics with the loss.

    With a ``scale`` the gradient is that of the loss times the scale.
    """
    trained, fixed = split(params, frozen)
    x, *targets = batch

    def loss_of(trained: Params) -> tuple[jax.Array, tuple[State, Metrics]]:
        y, new_state = model.apply(merge(trained, fixed), state, x, key=key, train=True)
        value, metrics = _checked(loss, y, targets)
        if scale is not None:
            value = value.astype(scale.dtype) * scale
        return value, (new_state, metrics)

    gradient, (state, metrics) = jax.grad(loss_of, has_aux=True)(trained)
    return gradient, state, metrics


def accumulated(
    parts: int,
    one: Callable[[State, jax.Array, Any], tuple[PyTree, State, Metrics]],
    state: State,
    key: jax.Array,
    batch: Any,
) -> tuple[PyTree, State, Metrics]:
    """The mean of the gradients of ``parts`` equal parts of a batch, taken one after the other.

    Only one part's activations are in memory at a time. Each part draws from a key of its own, and
    begins with the state that the part before it left. Metrics are means, counts (integers) sums.
    """

    def part_of(leaf: Any) -> jax.Array:
        size = jnp.shape(leaf)[:1]
        if not size or size[0] % parts:
            raise TrainingError(
                f"the batch does not fall into {parts} equal parts",
                expected=f"the first axis of every array is a multiple of accumulate={parts}",
                got=format_spec(specs_of(batch)),
            )
        return jnp.reshape(leaf, (parts, size[0] // parts, *jnp.shape(leaf)[1:]))

    def step(carry: tuple[PyTree, State], item: tuple[jax.Array, Any]) -> Any:
        total, state = carry
        number, part = item
        gradient, state, metrics = one(state, jax.random.fold_in(key, number), part)
        return (jax.tree.map(jnp.add, total, gradient), state), metrics

    items = (jnp.arange(parts), jax.tree.map(part_of, batch))
    first = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), items[1])
    shapes, _, _ = jax.eval_shape(one, state, key, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (total, state), metrics = lax.scan(step, (zeros, state), items)
    gradient = jax.tree.map(lambda leaf: leaf / parts, total)
    return gradient, state, jax.tree.map(_joined, metrics)


def _joined(values: jax.Array) -> jax.Array:
    if jnp.issubdtype(values.dtype, jnp.inexact):
        return jnp.mean(values, 0)
    return jnp.sum(values, 0, dtype=jnp.int32)


def _checked(loss: LossFunction, y: Any, targets: list[Any]) -> tuple[jax.Array, Metrics]:
    with calling_user_code("the loss", TrainingError):
        result = loss(y, *targets)
    pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
    value, metrics = result if pair else (result, {})
    spec = specs_of(value) if isinstance(value, jax.Array) else None
    if spec is None or spec.shape or not jnp.issubdtype(spec.dtype, jnp.floating):
        raise TrainingError(
            "the loss is no scalar",
            expected="a floating scalar, or (scalar, dict of metrics)",
            got=format_short(result),
            hint=".mean() of a loss for each example" if spec is not None and spec.shape else None,
        )
    for name in _OWN:
        if name in metrics:
            raise TrainingError(f"the metrics have a {name!r} already", hint="another name for it")
    return value, {"loss": value, **metrics}
