"""How a step uses an optax transformation.

How to read this file: ``init`` and ``update`` are optax's, with the frozen parameters as gaps and
with all that a transformation may ask for; ``learning_rate`` is the rate of an update.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from ..base.errors import TrainingError
from ..base.paths import flatten, unflatten
from ..base.types import Params, PyTree
from ..inspection.training_loss import Metrics

Optimizer: TypeAlias = optax.GradientTransformation
# From the number of a step to a learning rate, as optax has them.
Schedule: TypeAlias = Callable[[jax.Array], jax.typing.ArrayLike]


def init(tx: Optimizer, trained: Params, params: Params) -> PyTree:
    """The optimiser's state for the trained ones of all parameters.

    Raises:
      TrainingError: for a transformation that needs more than one step for an update.
    """
    opt_state = tx.init(_with_gaps(trained, params))
    for part in _parts(opt_state, "SAMState"):
        # Every other state would have the parameters of an attack: evaluations, averages and
        # checkpoints of them would be wrong.
        if part.cache is not None:
            raise TrainingError(
                "optax.contrib.sam moves the parameters away at every other step",
                expected="a transformation whose parameters are the model's after each step",
                hint="sam(..., opaque_mode=True): both gradients in one step",
            )
    return opt_state


def update(
    tx: Optimizer,
    gradient: PyTree,
    opt_state: PyTree,
    trained: Params,
    params: Params,
    loss: jax.Array,
    loss_of: Callable[[Params], jax.Array],
) -> tuple[Params, PyTree]:
    """The trained parameters after the update, and the optimiser's next state.

    Args:
      tx, gradient, opt_state, trained: as for ``tx.update``.
      params: all parameters.
      loss: before the update.
      loss_of: the loss as a function of the trained parameters, for a line search.
    """

    # optax.lbfgs refuses every extra argument that the function to search on has no name for.
    def value_fn(tree: PyTree, *, obj_fn: Any = None, grad_fn: Any = None) -> jax.Array:
        return loss_of(_without_gaps(tree))

    def grad_fn(tree: PyTree, *_: Any) -> PyTree:
        return _with_gaps(jax.grad(loss_of)(_without_gaps(tree)), params)

    gradient = _with_gaps(gradient, params)
    given = gradient, opt_state, _with_gaps(trained, params)
    # Traced only where they are called: a transformation that uses none of them costs nothing.
    extra = {
        "value": loss,
        "grad": gradient,
        "value_fn": value_fn,
        "obj_fn": value_fn,
        "grad_fn": grad_fn,
    }
    updates, opt_state = _updated(optax.with_extra_args_support(tx), given, extra)
    new: Params = optax.apply_updates(trained, _without_gaps(updates))
    return new, opt_state


def _updated(tx: Any, given: tuple[Any, ...], extra: dict[str, Any]) -> tuple[PyTree, PyTree]:
    """``tx.update`` with those extra arguments that all transformations inside it take."""
    while True:
        try:
            return tx.update(*given, **extra)  # type: ignore[no-any-return]
        except TypeError as error:
            # A chain hands all on, and optax.contrib.sam refuses those that it does not know.
            refused = re.search("unexpected keyword argument '([a-z_]+)'", str(error))
            if refused is None or extra.pop(refused[1], None) is None:
                raise


def learning_rate(
    rate: Schedule | float | None, before: PyTree, after: PyTree, step: jax.Array
) -> Metrics:
    """The rate of an update, where it is given or the optimiser's state holds it.

    Args:
      rate: the schedule or the number that the user gave.
      before, after: the optimiser's state.
      step: the number of the step, which counts skipped ones as well.
    """
    if rate is not None:
        if callable(rate):
            # The optimiser counts its own updates: a step that is skipped is not among them.
            counts = [part.count for part in _parts(before, "ScaleByScheduleState")]
            counts += [part.count for part in _parts(before, "ScaleByAdamState")]
            value = jnp.asarray(rate(counts[0] if counts else step), jnp.float32)
        else:
            value = jnp.asarray(rate, jnp.float32)
    else:
        # Of optax.inject_hyperparams; other states may have such an entry, too.
        rates = [
            value
            for path, value in optax.tree.get_all_with_path(after, "learning_rate")
            if "hyperparams" in (getattr(key, "name", None) for key in path)
        ]
        if len(rates) != 1:
            return {}
        value = jnp.asarray(rates[0], jnp.float32)
    for part in _parts(after, "ReduceLROnPlateauState"):
        value = value * part.scale.astype(jnp.float32)
    return {"learning_rate": value}


def _parts(opt_state: PyTree, name: str) -> Iterator[Any]:
    """The states of one kind inside an optimiser's state, by the name of their class."""

    def is_part(node: object) -> bool:
        return type(node).__name__ == name

    return filter(is_part, jax.tree.leaves(opt_state, is_leaf=is_part))


def _with_gaps(tree: Params, params: Params) -> PyTree:
    """The tree of trained parameters in the form of all, with optax's mark for what is missing.

    So a mask, or labels, for all parameters fit it, and a mask that is a function finds them by
    their own paths.
    """
    own, whole = flatten(tree), flatten(params)
    if len(own) == len(whole):
        return tree
    return unflatten({path: own.get(path, optax.MaskedNode()) for path in whole})


def _without_gaps(tree: PyTree) -> Params:
    return unflatten(flatten(tree))
