"""What losses and metrics take: arrays or a Sequence, labels, masks and weights.

How to read this file: ``Examples`` has the predictions as an array, the labels beside them, and the
weight of each example, in which a mask, the mask of a Sequence and weights are one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import TrainingError
from ..base.sequence import Sequence
from ..base.specs import format_spec, specs_of
from ..core.dtypes import at_least_float32

ArrayLike = jax.typing.ArrayLike


class Examples(NamedTuple):
    """Predictions, labels, and a weight for each example, or None where all have weight 1."""

    predictions: jax.Array
    labels: jax.Array
    weights: jax.Array | None


def examples(
    what: str,
    predictions: ArrayLike | Sequence,
    labels: ArrayLike | Sequence,
    mask: ArrayLike | None,
    weights: ArrayLike | None,
    *,
    axis: int | None = None,
    by_index: bool = False,
    ignore_label: int | None = None,
    classes: int | None = None,
) -> Examples:
    """The inputs, checked, with predictions of at least float32 and 0 where they do not count.

    Args:
      axis: the axis of the predictions that holds the classes; None where each number is an
        example of its own.
      by_index: whether integer labels are indices along ``axis``; all others have its shape.
      ignore_label: indices of this value do not count.
      classes: how many there are, where ``axis`` holds something else.

    Raises:
      TrainingError: for shapes that do not fit, and a mask that is not bool.
    """
    masks = [value.mask for value in (predictions, labels) if isinstance(value, Sequence)]
    y, target = (
        value.values if isinstance(value, Sequence) else jnp.asarray(value)
        for value in (predictions, labels)
    )
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise TrainingError(
            f"{what}: the predictions must be floating", got=format_spec(specs_of(y))
        )
    y = y.astype(at_least_float32(y.dtype))
    shape = y.shape if axis is None else _without(what, y.shape, axis)
    indices = by_index and jnp.issubdtype(target.dtype, jnp.integer)
    full = y.shape if classes is None else (*shape, classes)
    wanted = shape if indices else full
    if target.shape != wanted:
        raise TrainingError(
            f"{what}: labels do not fit the predictions {format_spec(specs_of(y))}",
            expected=" or ".join(_fitting(wanted, full, by_index)),
            got=format_spec(specs_of(target)),
            hint=_label_hint(target, y, by_index),
        )
    found: jax.Array | None = None
    if indices and ignore_label is not None:
        masks.append(_wide(target) != ignore_label)
    for value in masks if mask is None else [*masks, jnp.asarray(mask)]:
        if value.dtype != bool:
            raise TrainingError(
                f"{what}: the mask must be bool, True for what counts",
                got=format_spec(specs_of(value)),
                hint="weights= takes numbers",
            )
        found = _times(found, _leading(what, "the mask", value, shape))
    if weights is not None:
        found = _times(found, _leading(what, "weights", jnp.asarray(weights), shape))
    if found is None:
        return Examples(y, target, None)
    found = jnp.broadcast_to(found, shape).astype(y.dtype)
    # Whatever is at a masked place, NaN included, it has neither value nor gradient.
    kept = found != 0 if axis is None else jnp.expand_dims(found != 0, axis)
    if not indices:
        target = jnp.where(kept, target, jnp.zeros_like(target))
    return Examples(jnp.where(kept, y, 0), target, found)


def classified(
    what: str,
    logits: ArrayLike | Sequence,
    labels: ArrayLike | Sequence,
    mask: ArrayLike | None,
    weights: ArrayLike | None,
    axis: int,
    ignore_label: int | None = None,
    classes: int | None = None,
) -> Examples:
    """``examples`` whose labels may be indices: what does not count has the label 0.

    A label below 0 that counts becomes the number of classes: it is of no class, and would count
    from the end.
    """
    found = examples(
        what,
        logits,
        labels,
        mask,
        weights,
        axis=axis,
        by_index=True,
        ignore_label=ignore_label,
        classes=classes,
    )
    target = found.labels
    if not jnp.issubdtype(target.dtype, jnp.integer):
        return found
    target = _wide(target)
    if found.weights is not None:
        target = jnp.where(found.weights == 0, 0, target)
    if classes is None:
        classes = found.predictions.shape[axis]
    return found._replace(labels=jnp.where(target < 0, classes, target))


def _wide(labels: jax.Array) -> jax.Array:
    """Integers of a type that holds the number of classes, and what is ignored."""
    return labels.astype(jnp.int32) if labels.dtype.itemsize < 4 else labels


def weights_of_classes(
    what: str, class_weights: ArrayLike, classes: int, dtype: np.dtype
) -> jax.Array:
    """The weights (classes,), in the predictions' dtype.

    Raises:
      TrainingError: for another number of them.
    """
    weights = jnp.asarray(class_weights)
    if weights.shape != (classes,):
        raise TrainingError(
            f"{what}: class_weights must have a number for each class",
            expected=f"[{classes}]",
            got=format_spec(specs_of(weights)),
        )
    return weights.astype(dtype)


def _without(what: str, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    if not -len(shape) <= axis < len(shape):
        raise TrainingError(f"{what}: the predictions have no axis {axis}", got=str(shape))
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def _fitting(wanted: tuple[int, ...], full: tuple[int, ...], by_index: bool) -> list[str]:
    if not by_index:
        return [f"{list(wanted)}"]
    return (
        [f"integers {list(wanted)}", f"probabilities {list(full)}"]
        if wanted != full
        else [f"probabilities {list(full)}"]
    )


def _label_hint(target: jax.Array, y: jax.Array, by_index: bool) -> str | None:
    if by_index and jnp.issubdtype(target.dtype, jnp.integer) and target.shape == y.shape:
        return "one-hot labels are probabilities: labels.astype(float)"
    if target.ndim == y.ndim and target.shape[-1] == 1:
        return "labels[..., 0]"
    if not by_index and y.shape == (*target.shape, 1):
        return "predictions[..., 0]"
    return None


def _leading(what: str, name: str, value: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``value`` of the first axes of ``shape``, with an axis of 1 for each further one."""
    if value.ndim > len(shape) or any(
        own not in (1, size) for own, size in zip(value.shape, shape, strict=False)
    ):
        raise TrainingError(
            f"{what}: {name} must have the first axes of the examples {list(shape)}",
            got=format_spec(specs_of(value)),
        )
    return value.reshape(value.shape + (1,) * (len(shape) - value.ndim))


def _times(found: jax.Array | None, value: jax.Array) -> jax.Array:
    if found is None:
        return value
    if found.dtype == value.dtype:
        return found * value
    # A mask and weights.
    dtype = value.dtype if found.dtype == bool else found.dtype
    return found.astype(dtype) * value.astype(dtype)
