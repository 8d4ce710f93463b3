"""The state of a training run: one pytree, all that the next step needs."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..base.errors import TrainingError, public_api
from ..base.layer import Layer
from ..base.paths import flatten, unflatten
from ..base.specs import (
    Params,
    PyTree,
    State,
    format_short,
)
from .loss_scale import LossScale, ScaleState, check_loss_scale
from .trainable import patterns, split

Optimizer: TypeAlias = optax.GradientTransformation

# Far from the numbers of copies, which are folded into the same key.
_TRAINING = np.uint32(0xFFFFFFFF)


class TrainState(NamedTuple):
    """The state of a training run.

    Attributes:
      step: int32 (), the number of steps taken.
      params, state: of the model.
      opt_state: of the optax transformation; it knows the trained parameters alone.
      key: a typed key that stays what it is; a step draws from it with its number folded in.
      ema: the moving average of the trained parameters, or None.
      loss_scale: where the scale of the loss stands, or None.
    """

    step: jax.Array
    params: Params
    state: State
    opt_state: PyTree
    key: jax.Array
    ema: Params | None = None
    loss_scale: ScaleState | None = None


@public_api
def train_state(
    model: Layer,
    tx: Optimizer,
    key: jax.Array,
    x: PyTree,
    *,
    params: Params | None = None,
    state: State | None = None,
    frozen: str | tuple[str, ...] = (),
    ema: bool = False,
    loss_scale: LossScale | None = None,
) -> TrainState:
    """The state before the first step.

    ``train_step(...).start(key, x)`` is the same with the step's own options.

    Args:
      model: the layer to train.
      tx: the optax transformation that trains it.
      key: a typed key; the parameters are those of ``model.init(key, x)``.
      x: the model's input, arrays or specs.
      params, state: those to begin with, in the place of ``init``'s: pretrained ones, say.
      frozen: patterns over the paths of parameters that stay as they are: ``"encoder/**"``.
      ema: keep a moving average of the trained parameters.
      loss_scale: the scale of the loss for float16.

    Raises:
      TrainingError: where ``model`` or ``tx`` is none, and for a pattern that fits no parameter.
      LayerError: where ``x`` does not fit the model.

    >>> import jax, optax, jlayers as jl
    >>> from jlayers import training
    >>> model = jl.Dense(3)
    >>> run = training.train_state(model, optax.sgd(0.1), jax.random.key(0), jl.spec((8, 4)))
    >>> run.step, run.params["kernel"].shape
    (Array(0, dtype=int32), (4, 3))
    """
    check_model(model)
    check_transformation(tx)
    scale = check_loss_scale(loss_scale)
    if params is None or state is None:
        own_params, own_state = model.init(key, x)
        params = own_params if params is None else params
        state = own_state if state is None else state
    trained, _ = split(params, patterns(frozen))
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        state,
        tx.init(trained),
        jax.random.fold_in(key, _TRAINING),
        # Not the same arrays: what is donated twice is donated to nobody.
        jax.tree.map(jnp.copy, widened(trained)) if ema else None,
        scale.start() if scale else None,
    )


@public_api
def ema_params(run: TrainState) -> Params:
    """The parameters with their moving averages in the place of the trained ones.

    Raises:
      TrainingError: where the run keeps no averages.

    >>> import jax, optax, jlayers as jl
    >>> from jlayers import training
    >>> tx, x = optax.sgd(0.1), jl.spec((8, 4))
    >>> run = training.train_state(jl.Dense(3), tx, jax.random.key(0), x, ema=True)
    >>> training.ema_params(run)["kernel"].shape
    (4, 3)
    """
    if run.ema is None:
        raise TrainingError("the run keeps no moving average", hint="train_step(..., ema=0.999)")
    own = flatten(run.params)
    means = {path: leaf.astype(own[path].dtype) for path, leaf in flatten(run.ema).items()}
    return unflatten(own | means)


def widened(params: Params) -> Params:
    """Narrow floats as float32: a mean moves by less than bfloat16 can tell."""

    def wide(leaf: jax.Array) -> jax.Array:
        narrow = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
        return leaf.astype(jnp.float32) if narrow else leaf

    return jax.tree.map(wide, params)  # type: ignore[no-any-return]


def check_model(model: Any) -> None:
    if not isinstance(model, Layer):
        raise TrainingError("model is no layer", got=format_short(model), hint="jl.lift(model)")


def check_transformation(tx: Any) -> None:
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TrainingError(
            "tx is no optax transformation", got=format_short(tx), hint="optax.adam(1e-3)"
        )
