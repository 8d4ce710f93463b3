"""The training step, a pure function built from a model, a loss and an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from .. import checks
from ..errors import LayerError, boundary, doing
from ..layer import Layer
from ..specs import brief, show, specs_of
from .train_state import Optimizer, TrainState, check_model, check_transformation

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


@boundary
def train_step(model: Layer, loss: Callable[..., Any], tx: Optimizer, *, steps: int = 1) -> Step:
    """``step(run, batch) -> (run, metrics)``, pure and not compiled.

    Args:
      model: the layer to train; it is applied with ``train=True`` and a key of the step's own.
      loss: ``loss(y, *targets)``, a floating scalar, or this and a dict of further metrics.
      tx: the optax transformation.
      steps: K steps in one call, through one ``lax.scan``, so that a small model's time goes into
        its steps and not between them.

    Args of the result:
      run: a ``TrainState``.
      batch: ``(x, *targets)``. With ``steps=K`` > 1 the first axis of every array holds K batches.

    Returns of the result:
      run: the next one.
      metrics: the loss, before the update, as "loss", beside what ``loss`` gave. With ``steps=K``
        > 1 the first axis of every array holds the K steps.

    Raises:
      LayerError: at once where an argument is not what it has to be; from the step, when it is
        traced, where the batch or the loss is not, and where the batch does not fit the model.

    >>> import jax, jax.numpy as jnp, optax, jlayers as jl
    >>> from jlayers import training
    >>> model, tx = jl.Dense(1), optax.sgd(0.1)
    >>> step = training.train_step(model, lambda y, target: jnp.mean((y - target) ** 2), tx)
    >>> x, target = jnp.ones((8, 4)), jnp.zeros((8, 1))
    >>> run = training.train_state(model, tx, jax.random.key(0), x)
    >>> run, metrics = jax.jit(step)(run, (x, target))
    >>> int(run.step), metrics["loss"].shape
    (1, ())
    """
    check_model(model)
    if not callable(loss):
        raise LayerError("loss is no function", expected="loss(y, *targets)", got=brief(loss))
    check_transformation(tx)
    steps = checks.positive("steps", steps)

    def one(run: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        x, *targets = batch
        key = jax.random.fold_in(run.key, run.step)

        def loss_of(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            y, state = model.apply(params, run.state, x, key=key, train=True)
            value, metrics = _checked(loss, y, targets)
            return value, (state, metrics)

        gradient, (state, metrics) = jax.grad(loss_of, has_aux=True)(run.params)
        updates, opt_state = tx.update(gradient, run.opt_state, run.params)
        params = optax.apply_updates(run.params, updates)
        return TrainState(run.step + 1, params, state, opt_state, run.key), metrics

    @boundary
    def train_step(run: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        _check_batch(batch, steps)
        return one(run, batch) if steps == 1 else lax.scan(one, run, batch)

    return train_step


def compiled(step: Step) -> Any:
    """``jax.jit`` of a step, with the run donated: the next one takes its place in memory.

    The run that goes in cannot be used again. What comes back is what ``jax.jit`` returns.
    """
    return jax.jit(step, donate_argnums=0)


def _checked(loss: Callable[..., Any], y: Any, targets: list[Any]) -> tuple[jax.Array, Metrics]:
    with doing("the loss"):
        result = loss(y, *targets)
    pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
    value, metrics = result if pair else (result, {})
    spec = specs_of(value) if isinstance(value, jax.Array) else None
    if spec is None or spec.shape or not jnp.issubdtype(spec.dtype, jnp.floating):
        raise LayerError(
            "the loss is no scalar",
            expected="a floating scalar, or (scalar, dict of metrics)",
            got=brief(result),
            mend=".mean() of a loss for each example" if spec is not None and spec.shape else None,
        )
    if "loss" in metrics:
        raise LayerError("the metrics have a 'loss' already", mend="another name for it")
    return value, {"loss": value, **metrics}


def _check_batch(batch: Any, steps: int) -> None:
    if not isinstance(batch, tuple | list) or not batch:
        raise LayerError("the batch is no tuple", expected="(x, *targets)", got=brief(batch))
    if steps == 1:
        return
    for leaf in jax.tree.leaves(batch):
        if jnp.shape(leaf)[:1] != (steps,):
            raise LayerError(
                f"the batch does not hold {steps} batches",
                expected=f"the first axis of every array is steps={steps}",
                got=show(specs_of(batch)),
                mend="jax.tree.map(lambda *leaves: np.stack(leaves), *batches)",
            )
