"""A regressor of scikit-learn's kind."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import optax
from sklearn.base import RegressorMixin

from ..base.errors import TrainingError
from ..base.layer import Layer
from .estimator import Estimator
from .trainer import Loss


class Regressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """A model that scikit-learn trains and asks as one of its regressors.

    Args:
      model: a layer whose output is (rows, targets), or (rows,) for one target; or a function that
        is called with the number of targets, ``model(outputs)``, and returns one.
      loss: ``loss(output, target)`` of two arrays of the output's shape: the loss of each value or
        of each row. ``optax.squared_error`` by default.
      tx, learning_rate, epochs, batch_size, dtype, validation_fraction, hooks, random_state: as of
        ``Classifier``.
      early_stopping: as of ``Classifier``, by "eval/loss".

    Attributes:
      n_features_in_, feature_names_in_, model_, train_state_, records_: as of ``Classifier``.

    Raises:
      TrainingError: from ``fit``, for an invalid argument, and a model with another output.

    >>> import numpy as np, optax, jlayers as jl
    >>> from jlayers.sklearn import Regressor
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> regressor = Regressor(jl.Dense(1), tx=optax.sgd, learning_rate=0.1, random_state=0)
    >>> regressor.fit(x, 3 * x[:, 0] + 1).predict([[0.0], [1.0]]).round(2)
    array([1., 4.])
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Trains from the start.

        Args:
          X: (rows, features), or with more axes.
          y: (rows,), or (rows, targets).
          sample_weight: (rows,), relative: their mean is made 1.
        """
        x, target = self._checked(X, y, reset=True, multi_output=True, y_numeric=True)
        weights = self._weights(sample_weight, x)
        self._start(self._model(x, target), x)
        target = self._target(x, target)
        return self._train(x, target, weights / weights.mean(), self.epochs, True)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:  # noqa: N803
        """Takes one epoch over these rows from where training is; the optimiser's state is kept.

        Args:
          X, y: as of ``fit``.
          sample_weight: (rows,), as they are.
        """
        first = not hasattr(self, "train_state_")
        x, target = self._checked(X, y, reset=first, multi_output=True, y_numeric=True)
        weights = self._weights(sample_weight, x)
        if first:
            self._start(self._model(x, target), x)
        return self._train(x, self._target(x, target), weights, 1, False)

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """(rows,) or (rows, targets), as y was in ``fit``."""
        y = self._outputs(X)
        return y.reshape(len(y), *self._one_row)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _model(self, x: np.ndarray, target: np.ndarray) -> Layer:
        self._one_row: tuple[int, ...] = target.shape[1:]
        outputs = int(np.prod(self._one_row, dtype=int))
        model = self._built(outputs)
        shape = self._output(model, x).shape
        if shape not in ((len(x), outputs), (len(x), *self._one_row)):
            raise TrainingError(
                "the model must give a number for each target",
                expected=f"an output of shape {(len(x), outputs)}",
                got=str(shape),
                hint="a function of their number: model=lambda targets: jl.Dense(targets)",
            )
        return model

    def _target(self, x: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The target in the shape and dtype of the model's output.

        Raises:
          TrainingError: where it has another number of columns than in the first call.
        """
        if target.shape[1:] != self._one_row:
            raise TrainingError(
                "y has other columns than in the first call",
                expected=f"shape {(len(x), *self._one_row)}",
                got=str(target.shape),
            )
        spec = self._output(self.model_, x)
        return target.reshape(spec.shape).astype(spec.dtype)

    def _default_loss(self) -> Loss:
        return optax.squared_error  # type: ignore[no-any-return]
