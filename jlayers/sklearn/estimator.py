"""What a classifier and a regressor have in common: arguments, training, the model's output.

How to read this file: ``fit`` and ``partial_fit`` of the subclasses check ``y`` and call
``_train``; ``predict`` and the like call ``_outputs``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self

import jax
import numpy as np
import optax
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..base import arguments
from ..base.adapters import out_spec
from ..base.errors import TrainingError
from ..base.layer import Layer
from ..base.specs import format_short, format_spec
from ..data import Batches
from ..records.record import Record
from ..training.evaluator import make_evaluator
from ..training.loop.early_stopping import EarlyStopping
from ..training.loop.fit import fit
from ..training.loop.hooks import Hook
from ..training.state import TrainState
from .trainer import Loss, Trainer, rows_in_blocks, trainer, weighted

# As scikit-learn says that there is no y; None is a y that was forgotten.
_UNASKED = "no_validation"
# Far from the numbers of steps, which are folded into the same key.
_ORDER = np.uint32(0xFFFFFFFD)


class Estimator(BaseEstimator):  # type: ignore[misc]
    """The arguments of both estimators, and their training."""

    def __init__(
        self,
        model: Layer | Callable[[int], Layer],
        *,
        loss: Loss | None = None,
        tx: Callable[..., Any] = optax.adam,
        learning_rate: float | Callable[..., Any] = 1e-3,
        epochs: int = 50,
        batch_size: int = 32,
        dtype: Any = "float32",
        early_stopping: EarlyStopping | None = None,
        validation_fraction: float = 0.1,
        hooks: Iterable[Hook | Callable[[Record], object]] = (),
        random_state: Any = None,
    ):
        self.model = model
        self.loss = loss
        self.tx = tx
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.dtype = dtype
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.hooks = hooks
        self.random_state = random_state

    # Of the subclasses. Further metrics of an evaluation are those of each example.
    _measures: Mapping[str, Loss] = MappingProxyType({})

    def _default_loss(self) -> Loss:
        raise NotImplementedError

    def _strata(self, target: np.ndarray) -> np.ndarray | None:
        """What the rows for validation are to have in the same shares as the others."""
        return None

    # Inputs.

    def _checked(self, X: Any, y: Any = _UNASKED, *, reset: bool, **options: Any) -> Any:  # noqa: N803
        """X as the model takes it, and y if it is given, as scikit-learn checks them."""
        dtype = np.dtype(self.dtype)
        whole = dtype.kind in "iu"
        options |= {"allow_nd": True, "dtype": "numeric" if whole else dtype}
        found = validate_data(self, X, y, reset=reset, **options)
        x, *others = found if isinstance(found, tuple) else (found,)
        if whole:
            x, given = x.astype(dtype), x
            if not np.array_equal(x, given):
                raise TrainingError(
                    f"dtype is {dtype}, and X has values that it cannot hold",
                    expected=f"whole numbers in the range of {dtype}",
                    hint="dtype='float32'",
                )
        return (x, *others) if others else x

    def _built(self, outputs: int) -> Layer:
        """The layer, asked for so many outputs where the model is a function."""
        model = self.model
        if not isinstance(model, Layer) and callable(model):
            model = model(outputs)
        if not isinstance(model, Layer):
            raise TrainingError(
                "model must be a layer, or a function that returns one",
                expected="a jl.Layer, or model(outputs)",
                got=format_short(model),
            )
        return model

    def _output(self, model: Layer, x: np.ndarray) -> jax.ShapeDtypeStruct:
        """The spec of the model's output for the rows of x.

        Raises:
          TrainingError: where it is not one array with a row for each of them.
        """
        y = out_spec(model, jax.ShapeDtypeStruct(x.shape, x.dtype))
        if not isinstance(y, jax.ShapeDtypeStruct) or y.shape[:1] != x.shape[:1]:
            raise TrainingError(
                "the model's output must be one array, with a row for each row of X",
                got=format_spec(y),
            )
        return y

    def _trainer(self, model: Layer) -> Trainer:
        rate = self.learning_rate
        if not callable(rate):
            rate = arguments.number("learning_rate", rate)
        return trainer(model, self.loss or self._default_loss(), self.tx, rate)

    # Training.

    def _start(self, model: Layer, x: np.ndarray) -> None:
        """A model that has not been trained."""
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self.model_, self.records_ = model, list[Record]()
        size = arguments.positive("batch_size", self.batch_size)
        spec = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
        self.train_state_: TrainState = self._trainer(model).step.start(jax.random.key(seed), spec)

    def _weights(self, sample_weight: Any, x: np.ndarray) -> np.ndarray:
        """(rows,), all 1 for None."""
        if sample_weight is None:
            return np.ones(len(x))
        weights = check_array(
            sample_weight, dtype=float, ensure_2d=False, input_name="sample_weight"
        )
        if weights.shape != (len(x),):
            raise TrainingError(
                "sample_weight must have a number for each row",
                expected=f"shape {(len(x),)}",
                got=str(weights.shape),
            )
        if weights.min() < 0 or not weights.any():
            raise TrainingError(
                "sample_weight must be positive or zero, and not zero for all rows",
                got=f"from {weights.min():g} to {weights.max():g}",
            )
        return weights  # type: ignore[no-any-return]

    def _train(
        self, x: np.ndarray, target: np.ndarray, weights: np.ndarray, epochs: int, whole: bool
    ) -> Self:
        """Takes epochs from where the state is; with ``whole`` until it is to stop."""
        wide = np.float64 if x.dtype == np.float64 else np.float32
        arrays = [x, target, weights.astype(wide)]
        own, state, size = self._trainer(self.model_), self.train_state_, self.batch_size
        more: dict[str, Any] = {}
        if whole and self.early_stopping is not None:
            split = train_test_split(
                *arrays,
                test_size=self.validation_fraction,
                stratify=self._strata(target),
                random_state=int(jax.random.bits(state.key)),
            )
            arrays, held = split[::2], split[1::2]
            batches = Batches(tuple(held), size, last="pad")
            evaluate = make_evaluator(own.model, self._measure, batches)
            more = {"early_stopping": self.early_stopping, "evaluate": evaluate}
        # Another order each time, also in a further call of partial_fit.
        key = jax.random.fold_in(jax.random.fold_in(state.key, _ORDER), state.step)
        batches = Batches(tuple(arrays), size, key=key, last="pad")
        result = fit(
            own.step,
            state,
            batches,
            epochs=epochs,
            log_every=len(batches),
            evaluate_every=len(batches),
            hooks=self.hooks,
            progress=False,
            **more,
        )
        self.train_state_ = result.state
        self.records_ = [*self.records_, *result.records]
        return self

    def _measure(
        self, y: jax.Array, target: jax.Array, weight: jax.Array, valid: jax.Array
    ) -> dict[str, jax.typing.ArrayLike]:
        loss = self.loss or self._default_loss()
        found = {
            name: weighted(function, y, target, weight, valid)
            for name, function in {"loss": loss, **self._measures}.items()
        }
        return {**found, "weight": valid.sum().astype(np.float32)}

    # Output.

    def _outputs(self, X: Any) -> np.ndarray:  # noqa: N803
        """The model's output (rows, ...) in evaluation mode, float64 as scikit-learn's own."""
        check_is_fitted(self)
        x, state = self._checked(X, reset=False), self.train_state_
        own = self._trainer(self.model_)
        y = rows_in_blocks(own, state.params, state.state, x, self.batch_size)
        return y.astype(np.float64)
