"""The state of training: one pytree that holds all that the next step needs.

How to read this file: ``TrainState`` is the pytree and ``train_state`` makes the first one. Frozen
parameters are taken out of the tree by ``split_trained`` and put back by ``join_trained``, since
neither the gradient nor the optimiser is to see them. Checks of shared arguments are at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import TrainingError, public_api
from ..base.layer import Layer
from ..base.paths import combine, flatten, partition, unflatten
from ..base.specs import format_short, placeholders, specs_of
from ..base.tracing import trace
from ..base.types import Params, PyTree, State
from ..base.validation import check_tree
from ..base.wrong_input import refuse_trees
from ..combinators.modes import inference
from ..inspection.donation import check_not_donated
from ..inspection.traverse import walk
from . import optimizer
from .loss_scale import LossScale, ScaleState, check_loss_scale
from .optimizer import Optimizer
from .short_repr import short_repr

# Far from the indices of repeated layers, which are folded into the same key.
_TRAINING = np.uint32(0xFFFFFFFF)


class TrainState(NamedTuple):
    """The state of training.

    Attributes:
      step: int32 (), the number of steps taken.
      params, state: of the model.
      opt_state: of the optax transformation, for the trained parameters alone.
      key: a typed key that never changes; each step draws from it with its number folded in.
      ema: the moving average of the trained parameters, or None.
      loss_scale: the current scale of the loss, or None.
    """

    step: jax.Array
    params: Params
    state: State
    opt_state: PyTree
    key: jax.Array
    ema: Params | None = None
    loss_scale: ScaleState | None = None

    def __repr__(self) -> str:
        return short_repr("TrainState", **self._asdict())


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
      params, state: those to start with instead of ``init``'s, for example pretrained ones. With
        ``params``, a model that has a state needs both: their statistics belong to them.
      frozen, loss_scale: as for ``train_step``.
      ema: keep a moving average of the trained parameters.

    Raises:
      TrainingError: where ``model`` or ``tx`` has the wrong type, for a pattern that fits no
        parameter, and for ``params`` without the state that the model has.
      LayerError: where ``x`` does not fit the model, and where ``params`` or ``state`` do not.

    >>> import jax, optax, jlayers as jl
    >>> from jlayers import training
    >>> model = jl.Dense(3)
    >>> state = training.train_state(model, optax.sgd(0.1), jax.random.key(0), jl.spec((8, 4)))
    >>> state.step, state.params["kernel"].shape
    (Array(0, dtype=int32), (4, 3))
    """
    check_model(model)
    check_transformation(tx)
    scale = check_loss_scale(loss_scale)
    given = params is not None or state is not None
    if params is not None and state is None:
        check_tree(params, "params")
        state = _no_state(model, params, x)
    # Nothing is drawn where both are given: a pretrained model would be in memory twice.
    if params is None or state is None:
        own_params, own_state = model.init(key, x)
        params = own_params if params is None else params
        state = own_state if state is None else state
    if given:
        check_tree(params, "params")
        check_tree(state, "state")
        refuse_trees(model, params, state, specs_of(x))
    trained, _ = split_trained(params, check_patterns(frozen))
    return TrainState(
        jnp.zeros((), jnp.int32),
        params,
        state,
        optimizer.init(tx, trained, params),
        # A key of its own: the state is donated, and the user's key has to survive that.
        jax.random.fold_in(key, _TRAINING),
        # A copy: an array that occurs twice in the state could not be donated.
        jax.tree.map(jnp.copy, widened(trained)) if ema else None,
        scale.start() if scale else None,
    )


def _no_state(model: Layer, params: Params, x: PyTree) -> State:
    """``{}``, for a model without a state; a fresh one would be wrong in silence."""
    needed = trace(model, x).state
    if needed:
        # Of another model: its state would not help.
        refuse_trees(model, params, placeholders(needed), specs_of(x))
        raise TrainingError(
            "params are given without the state that belongs to them",
            expected="state with " + ", ".join(map(repr, flatten(needed))),
            hint="state= of load_model, of plan.load() or of training; for a fresh one "
            "state=model.init(key, x)[1]",
        )
    return {}


@public_api
def ema_params(state: TrainState) -> Params:
    """The parameters, the trained ones replaced by their moving averages.

    Raises:
      TrainingError: where the state has no averages.

    >>> import jax, optax, jlayers as jl
    >>> from jlayers import training
    >>> tx, x = optax.sgd(0.1), jl.spec((8, 4))
    >>> state = training.train_state(jl.Dense(3), tx, jax.random.key(0), x, ema=True)
    >>> training.ema_params(state)["kernel"].shape
    (4, 3)
    """
    check_not_donated(state)
    if state.ema is None:
        raise TrainingError("the state has no moving average", hint="train_step(..., ema=0.999)")
    # In the dtype of the parameters, so that a program compiled for them runs on the means too.
    own = flatten(state.params)
    means = {path: leaf.astype(own[path].dtype) for path, leaf in flatten(state.ema).items()}
    return unflatten(own | means)


def widened(params: Params) -> Params:
    """Narrow floats as float32: a mean moves by less than bfloat16 can represent."""

    def wide(leaf: jax.Array) -> jax.Array:
        narrow = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
        return leaf.astype(jnp.float32) if narrow else leaf

    return jax.tree.map(wide, params)  # type: ignore[no-any-return]


def split_trained(params: Params, frozen: tuple[str, ...]) -> tuple[Params, Params]:
    """(trained, frozen): two trees that hold each parameter once.

    Raises:
      LayerError: for a pattern that fits no path, and where nothing is left to train.
    """
    if not frozen:
        return params, {}
    fixed, trained = partition(params, *frozen)
    if not trained:
        raise TrainingError(
            "frozen matches every parameter: nothing is left to train",
            got=", ".join(map(repr, frozen)),
        )
    return trained, fixed


def evaluated(model: Layer, params: Params, frozen: tuple[str, ...]) -> Layer:
    """The model with those parts in evaluation mode of which all parameters are frozen."""
    if not frozen:
        return model
    trained = set(flatten(split_trained(params, frozen)[0]))
    paths = list(flatten(params))
    selected: dict[str, None] = {}
    for path, _ in walk(model):
        inside = [own for own in paths if own.startswith(f"{path}/")]
        # Outer layers come first, and those inside them follow.
        done = any(f"{path}/".startswith(f"{other}/") for other in selected)
        if path and inside and not done and not trained.intersection(inside):
            selected[path] = None
    return inference(model, lambda path, _: path in selected) if selected else model


def join_trained(trained: Params, fixed: Params) -> Params:
    """The tree of all parameters: the inverse of ``split_trained``."""
    return combine(trained, fixed) if fixed else trained


def check_patterns(frozen: object) -> tuple[str, ...]:
    """The argument ``frozen``, checked: one pattern or several."""
    given = (frozen,) if isinstance(frozen, str) else frozen
    if not isinstance(given, tuple | list) or not all(isinstance(one, str) for one in given):
        raise TrainingError(
            "frozen must be a pattern or a tuple of patterns",
            expected='paths or patterns: ("encoder/**", "**/bias")',
            got=repr(frozen),
        )
    return tuple(given)


def check_model(model: object) -> None:
    if not isinstance(model, Layer):
        raise TrainingError("model must be a Layer", got=format_short(model), hint="jl.lift(model)")


def check_transformation(tx: object) -> None:
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TrainingError(
            "tx must be an optax transformation", got=format_short(tx), hint="optax.adam(1e-3)"
        )
