"""The gradient of a model's loss over a batch, all at once or in parts."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from ..base.errors import TrainingError
from ..base.layer import Layer
from ..base.specs import format_spec, specs_of
from ..base.types import Params, PyTree, State
from ..inspection.training_loss import Batch, LossFunction, Metrics, training_loss
from .state import join_trained, split_trained


def gradient_of(
    model: Layer,
    loss: LossFunction,
    frozen: tuple[str, ...],
    scale: jax.Array | None,
    step: jax.Array,
    params: Params,
    state: State,
    key: jax.Array,
    batch: Batch,
) -> tuple[PyTree, State, Metrics]:
    """The gradient by the trained parameters, the new state, and the metrics with the loss.

    With a ``scale`` the gradient is that of the loss times the scale.
    """
    trained, fixed = split_trained(params, frozen)

    def loss_of(trained: Params) -> tuple[jax.Array, tuple[State, Metrics]]:
        params = join_trained(trained, fixed)
        return training_loss(model, loss, params, state, key, batch, scale, step)

    gradient, (state, metrics) = jax.grad(loss_of, has_aux=True)(trained)
    return gradient, state, metrics


def accumulated(
    parts: int,
    one: Callable[[LossFunction, State, jax.Array, Batch], tuple[PyTree, State, Metrics]],
    loss: Callable[[], LossFunction],
    state: State,
    key: jax.Array,
    batch: Batch,
    place: Callable[[PyTree], PyTree],
) -> tuple[PyTree, State, Metrics]:
    """The gradient of a batch from ``parts`` equal parts, computed one after the other.

    Only one part's activations are in memory at a time. Each part draws from a key of its own, and
    starts from the state that the previous part returned. Its loss and its metrics are estimates
    of those of the whole batch, see ``divided_loss``; their mean, and that of the gradients, is
    what the undivided batch has.

    Args:
      one: the gradient, the new state and the metrics of a part, with the loss that is given.
      loss: makes that loss, where the batch can be split.
      place: where the stacked parts, (parts, rows, ...), are to lie.
    """

    def part_of(leaf: jax.Array) -> jax.Array:
        size = jnp.shape(leaf)[:1]
        if not size or size[0] % parts:
            raise TrainingError(
                f"the batch cannot be split into {parts} equal parts",
                expected=f"the first axis of every array is a multiple of accumulate={parts}",
                got=format_spec(specs_of(batch)),
            )
        return jnp.reshape(leaf, (parts, size[0] // parts, *jnp.shape(leaf)[1:]))

    items = (jnp.arange(parts), place(jax.tree.map(part_of, batch)))
    divided = loss()

    def step(
        carry: tuple[PyTree, State], item: tuple[jax.Array, Batch]
    ) -> tuple[tuple[PyTree, State], Metrics]:
        total, state = carry
        number, part = item
        # By number, so that a part has the same key whatever their number is; ``find_non_finite``
        # folds it in again to run a part by itself.
        gradient, state, metrics = one(divided, state, jax.random.fold_in(key, number), part)
        return (jax.tree.map(jnp.add, total, gradient), state), metrics

    # The carry of the scan needs zeros of the gradient's dtypes, which the loss scale may change.
    first = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), specs_of(items[1])
    )
    shapes, _, _ = jax.eval_shape(functools.partial(one, divided), state, key, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    # A scan, not a Python loop: one part is compiled, and its activations are freed for the next.
    (total, state), metrics = lax.scan(step, (zeros, state), items)
    gradient = jax.tree.map(lambda leaf: leaf / parts, total)
    return gradient, state, jax.tree.map(functools.partial(_mean, parts), metrics)


def _mean(parts: int, values: jax.Array) -> jax.Array:
    if jnp.issubdtype(values.dtype, jnp.inexact):
        return jnp.mean(values, 0)
    # Counts of the whole, of which each part has an estimate.
    return jnp.sum(values, 0, dtype=jnp.int32) // parts
