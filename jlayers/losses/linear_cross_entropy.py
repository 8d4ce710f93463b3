"""Cross-entropy of classes that a last matrix gives, which never holds the logits of all rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from ..base import arguments
from ..base.errors import TrainingError, public_api
from ..base.sequence import Sequence
from ..base.specs import format_spec, specs_of
from .cross_entropy import of_probabilities
from .inputs import classified, weights_of_classes
from .weighted_mean import Reduction, reduce

# Of each row its loss, and what its label weighs where classes have weights.
Losses: TypeAlias = tuple[jax.Array, jax.Array | None]
Part: TypeAlias = Callable[[jax.Array, jax.Array], Losses]

# Logits of one part: 64 MiB in float32.
_LOGITS = 2**24
# With fewer rows the kernel is read too often for what is computed with it.
_LEAST_ROWS = 256


@public_api
def linear_cross_entropy(
    x: jax.typing.ArrayLike | Sequence,
    kernel: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    bias: jax.typing.ArrayLike | None = None,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    class_weights: jax.typing.ArrayLike | None = None,
    ignore_label: int | None = None,
    label_smoothing: float = 0.0,
    rows: int | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """``cross_entropy(x @ kernel + bias, labels)``, of some rows at a time.

    The logits of a part are made, used and dropped; the backward pass makes them once more. With
    many classes memory no longer grows with the examples, for a third more operations in the last
    layer. The model gives its hidden steps and the kernel, in place of logits.

    Args:
      x: (..., features), or a ``Sequence``, whose padding does not count. The product has its
        dtype, and sums and everything behind it at least float32.
      kernel: (features, classes): ``f.head.params["kernel"]`` in the body of a ``compose``, or a
        table of embeddings, transposed.
      labels: integers (...), or probabilities (..., classes).
      bias: (classes,).
      rows: how many examples are one part; by default as many as have 2 ** 24 logits, and 256 at
        least.
      mask, weights, class_weights, ignore_label, label_smoothing, reduction: as for
        ``cross_entropy``.

    Returns:
      A scalar, or (...); at least float32.

    Raises:
      TrainingError: for shapes that do not fit.
      LayerError: for a smoothing outside [0, 1], and rows that are not a positive int.

    >>> import jax.numpy as jnp
    >>> from jlayers import losses
    >>> x, kernel = jnp.ones((4, 10, 8)), jnp.zeros((8, 1000))
    >>> labels = jnp.zeros((4, 10), jnp.int32)
    >>> round(float(losses.linear_cross_entropy(x, kernel, labels)), 4)
    6.9078
    """
    what = "linear_cross_entropy"
    arguments.number("label_smoothing", label_smoothing, most=1)
    if rows is not None:
        arguments.positive("rows", rows)
    kernel, dtype = jnp.asarray(kernel), jnp.asarray(getattr(x, "values", x)).dtype
    _check_fits(what, specs_of(getattr(x, "values", x)), kernel, bias)
    classes = kernel.shape[1]
    given = classified(what, x, labels, mask, weights, -1, ignore_label, classes)
    wide = given.predictions.dtype
    per_class = None
    if class_weights is not None:
        per_class = weights_of_classes(what, class_weights, classes, wide)
    shift = None if bias is None else jnp.asarray(bias).astype(wide)

    def part(x: jax.Array, target: jax.Array) -> Losses:
        # The kernel is cast here, so that its gradient is summed in its own dtype.
        logits = jnp.matmul(x, kernel.astype(dtype), preferred_element_type=wide)
        if shift is not None:
            logits = logits + jnp.broadcast_to(shift, logits.shape)
        log_p = jax.nn.log_softmax(logits, -1)
        return of_probabilities(log_p, target, per_class, label_smoothing, -1)

    shape = given.predictions.shape[:-1]
    flat = given.predictions.astype(dtype).reshape(-1, kernel.shape[0])
    target = given.labels.reshape(-1, *given.labels.shape[len(shape) :])
    loss, own = _in_parts(part, flat, target, rows or max(_LOGITS // classes, _LEAST_ROWS))
    total = None
    if own is not None:
        own = own.reshape(shape)
        total = (own if given.weights is None else own * given.weights).sum()
    return reduce(what, loss.reshape(shape), given.weights, reduction, total)


def _in_parts(part: Part, x: jax.Array, target: jax.Array, rows: int) -> Losses:
    count = x.shape[0]
    parts = -(-count // rows)
    if parts <= 1:
        return part(x, target)
    rows = -(-count // parts)

    def cut(a: jax.Array) -> jax.Array:
        a = jnp.pad(a, ((0, rows * parts - count), *((0, 0),) * (a.ndim - 1)))
        # Row i of a part is near row i of the others: where the rows are spread over devices, each
        # has its share of every part.
        return jnp.swapaxes(a.reshape(rows, parts, *a.shape[1:]), 0, 1)

    def step(carry: None, pair: tuple[jax.Array, jax.Array]) -> tuple[None, Losses]:
        return carry, part(*pair)

    # Inside a scan nothing can be merged across the two passes.
    _, made = lax.scan(jax.checkpoint(step, prevent_cse=False), None, (cut(x), cut(target)))
    found: Losses = jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1).reshape(-1)[:count], made)
    return found


def _check_fits(
    what: str, x: jax.ShapeDtypeStruct, kernel: jax.Array, bias: jax.typing.ArrayLike | None
) -> None:
    fits = kernel.ndim == 2 and len(x.shape) > 0 and x.shape[-1] == kernel.shape[0]
    if not fits or not jnp.issubdtype(kernel.dtype, jnp.floating):
        turned = kernel.ndim == 2 and len(x.shape) > 0 and x.shape[-1] == kernel.shape[1]
        raise TrainingError(
            f"{what}: the kernel does not fit x {format_spec(x)}",
            expected=f"floating [{x.shape[-1] if x.shape else 'features'}, classes]",
            got=format_spec(specs_of(kernel)),
            hint="kernel.T" if turned else None,
        )
    if bias is not None and jnp.shape(bias) != (kernel.shape[1],):
        raise TrainingError(
            f"{what}: the bias must have a number for each class",
            expected=f"[{kernel.shape[1]}]",
            got=format_spec(specs_of(jnp.asarray(bias))),
        )
