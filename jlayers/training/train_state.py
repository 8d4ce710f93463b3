"""The state of a training run: one pytree, all that the next step needs."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..errors import LayerError, boundary
from ..layer import Layer
from ..specs import Params, PyTree, State, brief

Optimizer: TypeAlias = optax.GradientTransformation

# Far from the numbers of copies, which are folded into the same key.
_TRAINING = np.uint32(0xFFFFFFFF)


class TrainState(NamedTuple):
    """The state of a training run.

    Attributes:
      step: int32 (), the number of steps taken.
      params, state: of the model.
      opt_state: of the optax transformation.
      key: a typed key that stays what it is; a step draws from it with its number folded in.
    """

    step: jax.Array
    params: Params
    state: State
    opt_state: PyTree
    key: jax.Array


@boundary
def train_state(model: Layer, tx: Optimizer, key: jax.Array, x: PyTree) -> TrainState:
    """The state before the first step.

    Args:
      model: the layer to train.
      tx: the optax transformation that trains it.
      key: a typed key; the parameters are those of ``model.init(key, x)``.
      x: the model's input, arrays or specs.

    Raises:
      LayerError: where ``x`` does not fit the model, and where ``model`` or ``tx`` is none.

    >>> import jax, optax, jlayers as jl
    >>> from jlayers import training
    >>> model = jl.Dense(3)
    >>> run = training.train_state(model, optax.sgd(0.1), jax.random.key(0), jl.spec((8, 4)))
    >>> run.step, run.params["kernel"].shape
    (Array(0, dtype=int32), (4, 3))
    """
    check_model(model)
    check_transformation(tx)
    params, state = model.init(key, x)
    own_key = jax.random.fold_in(key, _TRAINING)
    return TrainState(jnp.zeros((), jnp.int32), params, state, tx.init(params), own_key)


def check_model(model: Any) -> None:
    if not isinstance(model, Layer):
        raise LayerError("model is no layer", got=brief(model), mend="jl.lift(model)")


def check_transformation(tx: Any) -> None:
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise LayerError("tx is no optax transformation", got=brief(tx), mend="optax.adam(1e-3)")
