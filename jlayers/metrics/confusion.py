"""Which class was taken for which, and what is counted from it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import TrainingError, public_api
from ..base.sequence import Sequence
from ..losses.inputs import classified
from .accuracy import integer_labels
from .metric import Metric

# How the classes are made one: the mean, the mean by their share of the labels, all counts
# together, each by itself.
Average: TypeAlias = Literal["macro", "weighted", "micro", "none"]


def _same(sums: jax.Array) -> jax.Array:
    return sums


@public_api
def confusion_matrix(
    logits: jax.typing.ArrayLike | Sequence,
    labels: jax.typing.ArrayLike | Sequence,
    *,
    mask: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    ignore_label: int | None = None,
) -> Metric:
    """How often each class (row) was predicted as each class (column).

    ``precision``, ``recall``, ``f1`` and ``iou`` are made of its value, as in ``matrix.then(...)``.

    Args:
      logits: (..., classes), or a ``Sequence``, whose padding does not count. For two classes and
        one logit, ``jnp.stack([jnp.zeros_like(logit), logit], -1)``.
      labels: integers (...). One outside the classes counts nowhere.
      mask: bool, of the first axes of the labels; True for what counts.
      weights: numbers, of the first axes of the labels.
      ignore_label: labels of this value do not count.

    Raises:
      TrainingError: for shapes that do not fit, and labels that are not integers.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> logits = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> matrix = metrics.confusion_matrix(logits, jnp.array([0, 1, 1]))
    >>> matrix.value().tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    >>> round(float(metrics.f1(matrix).value()), 4)
    0.6667
    """
    y, target, own = classified("confusion_matrix", logits, labels, mask, weights, -1, ignore_label)
    integer_labels("confusion_matrix", target)
    classes = y.shape[-1]
    # A product of one-hot rows: faster than a scatter, and the same on every device.
    true = jax.nn.one_hot(target.reshape(-1), classes, dtype=y.dtype)
    found = jax.nn.one_hot(y.argmax(-1).reshape(-1), classes, dtype=y.dtype)
    if own is not None:
        true = true * own.reshape(-1, 1)
    return Metric(jnp.matmul(true.T, found, precision="highest"), _same)


@public_api
def precision(matrix: Metric, *, average: Average = "macro") -> Metric:
    """Of what was predicted to be of a class, the share that is; 0 for a class never predicted.

    Args:
      matrix: of ``confusion_matrix``.
      average: "macro" for the mean of the classes, "weighted" for that by their share of the
        labels, "micro" for all counts together, "none" for each class by itself. Classes that are
        neither in the labels nor in the predictions have no part in the means.

    Raises:
      TrainingError: for another metric or average.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> matrix = metrics.confusion_matrix(jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 1, 1]))
    >>> metrics.precision(matrix, average="none").value().tolist()
    [0.5, 1.0]
    """
    return _of_classes("precision", matrix, _precision, average)


@public_api
def recall(matrix: Metric, *, average: Average = "macro") -> Metric:
    """Of what is of a class, the share that was found; 0 for a class without labels.

    Arguments and errors are those of ``precision``.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> matrix = metrics.confusion_matrix(jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 1, 1]))
    >>> metrics.recall(matrix, average="none").value().tolist()
    [1.0, 0.5]
    """
    return _of_classes("recall", matrix, _recall, average)


@public_api
def f1(matrix: Metric, *, average: Average = "macro") -> Metric:
    """The harmonic mean of precision and recall, ``2 tp / (2 tp + fp + fn)``.

    Arguments and errors are those of ``precision``.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> matrix = metrics.confusion_matrix(jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 1, 1]))
    >>> round(float(metrics.f1(matrix, average="micro").value()), 4)
    0.6667
    """
    return _of_classes("f1", matrix, _f1, average)


@public_api
def iou(matrix: Metric, *, average: Average = "macro") -> Metric:
    """Intersection over union, ``tp / (tp + fp + fn)``: of segmentations, the mean IoU.

    Arguments and errors are those of ``precision``.

    >>> import jax.numpy as jnp
    >>> from jlayers import metrics
    >>> matrix = metrics.confusion_matrix(jnp.eye(2)[jnp.array([0, 0, 1])], jnp.array([0, 1, 1]))
    >>> float(metrics.iou(matrix).value())
    0.5
    """
    return _of_classes("iou", matrix, _iou, average)


def _precision(right: jax.Array, true: jax.Array, found: jax.Array) -> jax.Array:
    return _share(right, found)


def _recall(right: jax.Array, true: jax.Array, found: jax.Array) -> jax.Array:
    return _share(right, true)


def _f1(right: jax.Array, true: jax.Array, found: jax.Array) -> jax.Array:
    return _share(2 * right, true + found)


def _iou(right: jax.Array, true: jax.Array, found: jax.Array) -> jax.Array:
    return _share(right, true + found - right)


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))


def _of_classes(what: str, matrix: Metric, formula: Any, average: Average) -> Metric:
    if not isinstance(matrix, Metric) or matrix.finish is not _same:
        raise TrainingError(
            f"{what}: needs a confusion matrix",
            got=type(matrix).__name__,
            hint=f"{what}(confusion_matrix(logits, labels))",
        )
    arguments.one_of("average", average, ("macro", "weighted", "micro", "none"))
    return matrix.then(_Averaged(formula, average))


@dataclasses.dataclass(frozen=True)
class _Averaged:
    """A formula of counts for each class, and how the classes are made one."""

    formula: Any
    average: Average

    def __call__(self, matrix: jax.Array) -> jax.Array:
        return _averaged(self.formula, self.average, matrix)


def _averaged(formula: Any, average: Average, matrix: jax.Array) -> jax.Array:
    right, true, found = jnp.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    if average == "micro":
        value: jax.Array = formula(right.sum(), true.sum(), found.sum())
        return value
    each: jax.Array = formula(right, true, found)
    if average == "none":
        return each
    seen = ((true + found) > 0).astype(each.dtype)
    return (
        _share((each * seen).sum(), seen.sum())
        if average == "macro"
        else _share((each * true).sum(), true.sum())
    )
