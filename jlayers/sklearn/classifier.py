"""A classifier of scikit-learn's kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import jax
import numpy as np
import optax
import scipy.special
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from ..base.errors import TrainingError
from ..base.layer import Layer
from .estimator import Estimator
from .trainer import Loss

# Labels in an error.
_SHOWN = 12


def _is_right(y: jax.Array, target: jax.Array) -> jax.Array:
    return (y.argmax(-1) == target).astype(np.float32)


def _text(labels: np.ndarray) -> str:
    """The first labels, as Python writes them."""
    few = labels.tolist()[:_SHOWN]
    return ", ".join(map(repr, few)) + (", ..." if len(labels) > len(few) else "")


class Classifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """A model that scikit-learn trains and asks as one of its classifiers.

    Clones, ``Pipeline``, ``GridSearchCV``, scores, calibration and pickles work as with any other
    estimator. Layers can be searched over: ``{"model": [small, large]}``.

    Args:
      model: a layer that gives a logit for each class, (rows, classes); or a function that is
        called with the number of classes, ``model(outputs)``, and returns one.
      loss: ``loss(logits, labels)``, the loss of each example, (rows,); labels are int32, places in
        ``classes_``. Cross-entropy by default.
      tx: a function of optax that takes the learning rate: ``optax.adam``,
        ``functools.partial(optax.adamw, weight_decay=1e-2)``.
      learning_rate: a number, or a schedule of optax.
      epochs: of ``fit``; ``partial_fit`` takes one.
      batch_size: rows in a step. The last one of an epoch is filled up with rows that do not
        count.
      dtype: that X is converted to; ``"int32"`` for a model that takes tokens.
      early_stopping: ``training.EarlyStopping("eval/loss", patience=5, restore_best=True)``:
        ``fit`` keeps ``validation_fraction`` of the rows, in the same shares of classes, and
        evaluates after each epoch: "eval/loss" and "eval/accuracy".
      validation_fraction: used with ``early_stopping`` alone.
      hooks: as of ``training.fit``; each epoch makes a record. A clone has copies of them.
      random_state: an int, a ``RandomState`` or None: what is drawn at the start, the order of the
        rows, and what the model draws.

    Attributes:
      classes_: the labels, sorted; of any type.
      n_features_in_, feature_names_in_: of X, as scikit-learn sets them.
      model_: the layer.
      train_state_: with ``train_state_.params`` and ``train_state_.state`` of the layer.
      records_: one ``training.Record`` for each epoch.

    Raises:
      TrainingError: from ``fit``, for an invalid argument, and a model with another output.

    >>> import jax, numpy as np, optax, jlayers as jl
    >>> from jlayers.sklearn import Classifier
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> labels = np.where(x[:, 0] > 0, "right", "left")
    >>> net = jl.serial(jl.Dense(8), jax.nn.relu, jl.Dense(2))
    >>> classifier = Classifier(net, tx=optax.sgd, learning_rate=0.5).fit(x, labels)
    >>> classifier.predict([[-0.5], [0.5]]), classifier.predict_proba(x).shape
    (array(['left', 'right'], dtype='<U5'), (64, 2))
    """

    _measures: Mapping[str, Loss] = MappingProxyType({"accuracy": _is_right})

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Trains from the start.

        Args:
          X: (rows, features), or with more axes.
          y: (rows,), labels.
          sample_weight: (rows,), relative: their mean is made 1.
        """
        x, y = self._checked(X, y, reset=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        weights = self._weights(sample_weight, x)
        self._start(self._model(x), x)
        epochs = self.epochs
        return self._train(x, labels.astype(np.int32), weights / weights.mean(), epochs, True)

    def partial_fit(
        self,
        X: Any,  # noqa: N803
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
    ) -> Self:
        """Takes one epoch over these rows from where training is; the optimiser's state is kept.

        Args:
          X, y: as of ``fit``.
          classes: all labels that will ever occur; the first call needs them.
          sample_weight: (rows,), as they are.
        """
        first = not hasattr(self, "train_state_")
        x, y = self._checked(X, y, reset=first)
        check_classification_targets(y)
        if not first:
            known: np.ndarray = self.classes_
        elif classes is None:
            raise TrainingError(
                "the first call of partial_fit needs all classes",
                hint="partial_fit(X, y, classes=np.unique(all_labels))",
            )
        else:
            known = np.unique(classes)
        if classes is not None and not np.array_equal(np.unique(classes), known):
            raise TrainingError(
                "classes are not those of the first call of partial_fit",
                expected=_text(known),
                got=_text(np.unique(classes)),
            )
        if len(unknown := np.setdiff1d(y, known)):
            raise TrainingError(
                "y has labels that are not among the classes",
                expected=_text(known),
                got=_text(unknown),
            )
        weights = self._weights(sample_weight, x)
        if first:
            self.classes_ = known
            self._start(self._model(x), x)
        labels = np.asarray(np.searchsorted(known, y), np.int32)
        return self._train(x, labels, weights, 1, False)

    def predict_proba(self, X: Any) -> np.ndarray:  # noqa: N803
        """(rows, classes): the softmax of the logits, in the order of ``classes_``."""
        return scipy.special.softmax(self._outputs(X), axis=-1)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """(rows,): the label with the largest logit."""
        logits = self._outputs(X)
        return self.classes_[logits.argmax(-1)]  # type: ignore[no-any-return]

    def _model(self, x: np.ndarray) -> Layer:
        classes = len(self.classes_)
        model = self._built(classes)
        shape = self._output(model, x).shape
        if shape != (len(x), classes):
            raise TrainingError(
                "the model must give a logit for each class",
                expected=f"an output of shape {(len(x), classes)}, for the classes "
                + _text(self.classes_),
                got=str(shape),
                hint="a function of their number: model=lambda classes: jl.Dense(classes)",
            )
        return model

    def _default_loss(self) -> Loss:
        return optax.softmax_cross_entropy_with_integer_labels  # type: ignore[no-any-return]

    def _strata(self, target: np.ndarray) -> np.ndarray | None:
        return target
