"""Metrics that are exact over many batches: sums that add up, finished at the end.

Each function gives a ``Metric`` of its examples; ``first + second`` is that of both, and
``.value()`` the number. ``training.make_evaluator`` adds them up over a data set.
"""

from typing import TYPE_CHECKING

from .accuracy import accuracy, binary_accuracy
from .auc import auc
from .confusion import confusion_matrix, f1, iou, precision, recall
from .mean import mean, perplexity, r2_score
from .metric import Metric

__all__ = [
    "Metric",
    "accuracy",
    "auc",
    "binary_accuracy",
    "confusion_matrix",
    "f1",
    "iou",
    "mean",
    "perplexity",
    "precision",
    "r2_score",
    "recall",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from ..base.unknown import unknown_attribute

        raise unknown_attribute(__name__, name, __all__)
