"""Labels without times: connectionist temporal classification."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from ..base import arguments
from ..base.errors import TrainingError, public_api
from ..base.sequence import Sequence
from ..base.specs import format_spec, specs_of
from ..core.dtypes import at_least_float32
from .weighted_mean import Reduction, reduce


@public_api
def ctc(
    logits: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    lengths: jax.typing.ArrayLike | None = None,
    label_lengths: jax.typing.ArrayLike | None = None,
    blank: int = 0,
    per_label: bool = False,
    reduction: Reduction = "mean",
) -> jax.Array:
    """``-log`` of the probability of the labels over all their alignments (Graves et al., 2006).

    ``optax.ctc_loss`` with lengths. A row of padding alone, without steps or labels, is 0. A label
    outside the classes gives NaN, and labels that do not fit into the steps about 1e5.

    Args:
      logits: (batch, time, classes), or a ``Sequence`` with padding behind.
      labels: integers (batch, labels), without blanks, or a ``Sequence`` with padding behind.
      lengths: integers (batch,), the valid steps of the logits; by default all.
      label_lengths: integers (batch,); by default all.
      blank: the class that stands for no label.
      per_label: whether the loss of a row is divided by the number of its labels, as PyTorch's mean
        does.
      reduction: "mean", "sum", or "none" for the loss of each row.

    Returns:
      A scalar, or (batch,); at least float32.

    Raises:
      TrainingError: for shapes and dtypes that do not fit, no step at all, and a blank that is not
        one of the classes.

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> loss = losses.ctc(jnp.zeros((1, 5, 3)), jnp.array([[1, 2]]), label_lengths=jnp.array([1]))
    >>> round(float(loss), 4)
    2.785
    """
    y, padding = _with_padding("the logits", logits, lengths)
    target, label_padding = _with_padding("the labels", labels, label_lengths)
    if y.ndim != 3 or target.ndim != 2 or y.shape[0] != target.shape[0]:
        raise TrainingError(
            "ctc: logits and labels do not fit",
            expected="(batch, time, classes) and integers (batch, labels)",
            got=f"{format_spec(specs_of(y))} and {format_spec(specs_of(target))}",
        )
    _check_values(y, target, blank)
    y = y.astype(at_least_float32(y.dtype))
    y = jnp.where(padding[..., None], 0, y)
    target = jnp.where(label_padding, 0, target.astype(jnp.int32))
    unknown = jnp.any((target < 0) | (target >= y.shape[2]), 1)
    loss = optax.ctc_loss(
        y, padding.astype(y.dtype), target, label_padding.astype(y.dtype), blank_id=blank
    )
    # A label outside the classes has no probability; it would have that of the end of a row.
    loss = jnp.where(unknown, jnp.nan, loss)
    if per_label:
        loss = loss / jnp.maximum((~label_padding).sum(1).astype(y.dtype), 1)
    return reduce("ctc", loss, None, reduction)


def _check_values(y: jax.Array, target: jax.Array, blank: int) -> None:
    if not jnp.issubdtype(y.dtype, jnp.floating) or not y.shape[1]:
        raise TrainingError(
            "ctc: the logits must be floating, with a step at least", got=format_spec(specs_of(y))
        )
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise TrainingError("ctc: the labels must be integers", got=format_spec(specs_of(target)))
    if not 0 <= arguments.integer("blank", blank) < y.shape[2]:
        raise TrainingError(
            f"ctc: blank {blank} is not one of the classes", expected=f"0 to {y.shape[2] - 1}"
        )


def _with_padding(
    name: str, value: jax.typing.ArrayLike | Sequence, lengths: jax.typing.ArrayLike | None
) -> tuple[jax.Array, jax.Array]:
    """The values, and True for the steps that are padding."""
    if isinstance(value, Sequence):
        array, padding = value.values, ~value.mask
    else:
        array = jnp.asarray(value)
        padding = jnp.zeros(array.shape[:2], bool)
    if lengths is None or array.ndim < 2:
        return array, padding
    count = jnp.asarray(lengths)
    if count.shape != array.shape[:1] or not jnp.issubdtype(count.dtype, jnp.integer):
        raise TrainingError(
            f"ctc: the lengths of {name} must be integers, one for each row",
            expected=f"int32[{array.shape[0]}]",
            got=format_spec(specs_of(count)),
        )
    step = jnp.arange(array.shape[1], dtype=count.dtype)[None]
    return array, padding | (step >= count[:, None])
