"""The metrics of a model over held-out data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..base import arguments
from ..base.errors import TrainingError, public_api
from ..base.layer import Layer
from ..base.specs import format_short, format_spec, specs_of
from ..base.types import Params, State
from ..data import as_source
from ..inspection.training_loss import Batch, Metrics
from .state import TrainState, check_model, ema_params


@public_api
def make_evaluator(
    model: Layer,
    measure: Callable[..., dict[str, jax.typing.ArrayLike]],
    data: Any,
    *,
    ema: bool = False,
) -> Callable[[TrainState], Metrics]:
    """``evaluate(state) -> metrics``, for ``fit`` or to be called alone.

    The model is applied with ``train=False`` to all batches of an epoch, in a compiled program. The
    results are means over the examples, on the device: nothing waits for them.

    Args:
      model: the layer that is trained.
      measure: ``measure(y, *targets)`` gives means over the batch by name, as scalars. A "weight"
        among them is the batch's share of the whole (the sum of ``valid``, for example, with
        ``Batches(..., last="pad")``); without one it is the number of its examples.
      data: batches ``(x, *targets)`` that can be read again; see ``as_source``.
      ema: use the moving averages instead of the parameters.

    Raises:
      TrainingError: for an invalid argument; when called, where a metric is not a scalar.

    >>> import jax, jax.numpy as jnp, numpy as np, optax, jlayers as jl
    >>> from jlayers import training
    >>> x, target = np.ones((10, 3), np.float32), np.zeros((10, 1), np.float32)
    >>> error = lambda y, target: {"error": jnp.abs(y - target).mean()}
    >>> evaluate = training.make_evaluator(
    ...     jl.Dense(1), error, training.Batches((x, target), 4, last="keep")
    ... )
    >>> state = training.train_state(jl.Dense(1), optax.sgd(0.1), jax.random.key(0), x)
    >>> sorted(evaluate(state))
    ['error']
    """
    check_model(model)
    if not callable(measure):
        raise TrainingError(
            "measure must be a function", expected="measure(y, *targets)", got=format_short(measure)
        )
    batches = as_source(data)
    ema = arguments.flag("ema", ema)
    if not batches.rereads:
        raise TrainingError(
            "the data can be read once only, and each evaluation reads it",
            hint="a list, or a function of the epoch that gives a new iterator",
        )

    @jax.jit
    def part(params: Params, state: State, batch: Batch) -> tuple[jax.Array, Metrics]:
        x, *targets = batch
        y, _ = model.apply(params, state, x)
        metrics = dict(measure(y, *targets))
        # By examples and not by batches: a short last batch must not count as much as a full one.
        weight = metrics.pop("weight", jax.tree.leaves(batch)[0].shape[0])
        weight = jnp.asarray(weight, jnp.float32)
        for name, value in metrics.items():
            if jnp.shape(value):
                raise TrainingError(
                    f"the metric {name!r} must be a scalar",
                    expected="a mean over the batch",
                    got=format_spec(specs_of(value)),
                )
        # float32, whatever the model computes in: sums over an epoch need the digits.
        return weight, {
            name: weight * jnp.asarray(value, jnp.float32) for name, value in metrics.items()
        }

    # On the device: nothing is read until the record is.
    add = jax.jit(lambda a, b: jax.tree.map(jnp.add, a, b))
    mean = jax.jit(lambda total: {name: value / total[0] for name, value in total[1].items()})

    @public_api
    def evaluate(state: TrainState) -> Metrics:
        params = ema_params(state) if ema else state.params
        total: tuple[jax.Array, Metrics] | None = None
        for batch, _ in batches.read(None, 1):
            own = part(params, state.state, batch)
            total = own if total is None else add(total, own)
        return mean(total)  # type: ignore[no-any-return]

    return evaluate
