"""What an estimator runs: the training step of a layer, and the program that predicts.

A layer is compiled once for all estimators that train it in the same way: the candidates and folds
of a search are clones, and a clone has the same layer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import TrainingError
from ..base.layer import Layer
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from ..training.step import TrainStep, train_step

Loss = Callable[[jax.Array, jax.Array], jax.Array]


class Trainer(NamedTuple):
    """A layer with its programs.

    Attributes:
      model: the layer.
      step: takes batches ``(x, target, weight, valid)``.
      predict: ``predict(params, state, x)``, compiled.
    """

    model: Layer
    step: TrainStep
    predict: Callable[..., jax.Array]


@functools.lru_cache(maxsize=16)
def trainer(
    model: Layer, loss: Loss, tx: Callable[..., Any], rate: float | Callable[..., Any]
) -> Trainer:
    """The programs of a layer; the same ones for the same arguments."""

    @jax.jit
    def predict(params: PyTree, state: PyTree, x: jax.Array) -> jax.Array:
        return model.apply(params, state, x)[0]  # type: ignore[no-any-return]

    step = train_step(model, functools.partial(weighted, loss), transformation(tx, rate))
    return Trainer(model, step, predict)


def transformation(tx: Callable[..., Any], rate: float | Callable[..., Any]) -> Any:
    """``tx(rate)``.

    Raises:
      TrainingError: for a ``tx`` that cannot be called, such as ``optax.adam(1e-3)``.
    """
    if not callable(tx):
        raise TrainingError(
            "tx must be a function of the learning rate",
            expected="tx=optax.adam, learning_rate=1e-3",
            got=type(tx).__name__,
            hint="functools.partial(optax.adamw, weight_decay=1e-2) for further arguments",
        )
    return tx(rate)


def weighted(
    loss: Loss, y: jax.Array, target: jax.Array, weight: jax.Array, valid: jax.Array
) -> jax.Array:
    """``sum(weight * loss) / rows``, of the valid rows.

    Raises:
      TrainingError: where the loss is not one for each example.
    """
    each = jnp.asarray(loss(y, target))
    if each.ndim == 0 or each.shape[0] != valid.shape[0]:
        raise TrainingError(
            "loss must give the loss of each example",
            expected=f"a floating array of shape ({valid.shape[0]},) or ({valid.shape[0]}, ...)",
            got=format_spec(specs_of(each)),
            hint="optax.huber_loss, or functools.partial(losses.cross_entropy, reduction='none')",
        )
    each = each.reshape(len(each), -1).mean(1)
    # Where and not a product: what is computed from the filling may be NaN.
    counted = jnp.where(valid, each * weight.astype(each.dtype), 0).sum()
    return counted / valid.sum().astype(each.dtype)


def rows_in_blocks(
    trainer: Trainer, params: PyTree, state: PyTree, x: np.ndarray, size: int
) -> np.ndarray:
    """The output for all rows, by one program for ``size`` rows, whatever their number is.

    So a row has the same output in any company, to the last bit.
    """
    blocks = []
    for start in range(0, len(x), size):
        block = x[start : start + size]
        filling = np.zeros((size - len(block), *x.shape[1:]), x.dtype)
        y = trainer.predict(params, state, np.concatenate([block, filling]))
        blocks.append(np.asarray(y)[: len(block)])
    return np.concatenate(blocks)
