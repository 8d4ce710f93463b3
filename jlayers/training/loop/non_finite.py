"""A training step that was not finite: the error, and which layer caused it."""

from __future__ import annotations

import functools
from typing import Any

import jax

from ...base.errors import TrainingError, public_api
from ...base.layer import Layer
from ...data.recent_batches import FoundBatch
from ...inspection.nonfinite.find import find_non_finite as find_in_model
from ...inspection.nonfinite.report import NonFinite
from ...inspection.training_loss import Batch, LossFunction, asked_by
from ...sharding.batches import fetched, size_of
from ..divided_loss import divided_loss
from ..state import TrainState, check_model, check_patterns, evaluated
from ..step import Step, TrainStep
from .hooks import FitResult

# Bytes of a state on a mesh that is brought together to be looked at on one device.
_LARGEST = 4 << 30


class NonFiniteError(TrainingError):
    """A loss or a gradient was not finite.

    Attributes:
      step: the number of the step, from 0.
      position: in the data, before the batch.
      after: in the data, after the batch.
      batch: the batch; None where it was not kept, or cannot be read again.
      state: the state before the step.
      report: which layer caused it, a ``NonFinite``; None where that is not known.
      fitted: what the loop had done, a ``FitResult``.
    """

    # The name users import it by, in tracebacks too.
    __module__ = "jlayers.training"

    def __init__(self, found: FoundBatch, step: int, state: Any, report: NonFinite | None):
        # Three cases, because "not known" has to be told from "not to be found again".
        if report is not None:
            text = "\n" + "\n".join(f"    {line}" for line in str(report).splitlines())
        elif found.batch is None:
            text = f"a batch that was {found.missing}"
        else:
            text = "no layer shows it with the current parameters"
            if size_of(state) > _LARGEST:
                text = f"a state of {size_of(state) >> 30} GiB, too large to look for the layer"
        super().__init__(
            f"the loss or the gradient of step {step} is not finite "
            f"(its batch is at {found.position} in the data)",
            got=text,
            hint='fit(..., non_finite="skip") skips such steps',
        )
        self.step, self.state, self.report = step, state, report
        self.batch, self.position, self.after, _ = found
        self.fitted: FitResult | None = None


@public_api
def find_non_finite(
    model: Layer,
    loss: LossFunction,
    state: TrainState,
    batch: Batch,
    *,
    frozen: str | tuple[str, ...] = (),
    accumulate: int = 1,
) -> NonFinite | None:
    """``jlayers.inspection.find_non_finite`` for a ``TrainState``, as it was before the step.

    Its key, with the number of the step, and its loss scale are those of the step.

    >>> import jax, jax.numpy as jnp, optax, jlayers as jl
    >>> from jlayers import training
    >>> model = jl.serial(jl.Dense(3), jax.nn.relu, jnp.log)
    >>> x = jnp.ones((8, 4))
    >>> state = training.train_state(model, optax.sgd(0.1), jax.random.key(0), x)
    >>> found = training.find_non_finite(model, lambda y: jnp.mean(y), state, (x,))
    >>> found.kind, found.path
    ('forward', 'log')
    """
    check_model(model)
    frozen = check_patterns(frozen)
    # Layer by layer, and not as one program that XLA could divide over a mesh.
    state, batch = fetched((state, batch))
    model = evaluated(model, state.params, frozen)
    key = jax.random.fold_in(state.key, state.step)
    leaves = jax.tree.leaves(batch)
    if accumulate > 1 and all(leaf.ndim and not leaf.shape[0] % accumulate for leaf in leaves):
        given = (state.params, state.state, key, batch, state.step)
        loss = divided_loss(model, loss, accumulate, *given)
    # The number of the step is the training's: the model and its loss know of none.
    if "step" in asked_by(loss, len(batch) - 1):
        loss = functools.partial(loss, step=state.step)
    return find_in_model(
        model,
        loss,
        state.params,
        state.state,
        key,
        batch,
        frozen=frozen,
        accumulate=accumulate,
        loss_scale=None if state.loss_scale is None else state.loss_scale.scale,
    )


def diagnose(step: Step, state: Any, batch: Any) -> NonFinite | None:
    """The report on a step of ``train_step``; nothing is known of others, and of large states."""
    if batch is None or not (isinstance(step, TrainStep) and isinstance(state, TrainState)):
        return None
    if step.mesh is not None and size_of((state, batch)) > _LARGEST:
        return None
    return find_non_finite(
        step.model, step.loss, state, batch, frozen=step.frozen, accumulate=step.accumulate
    )
