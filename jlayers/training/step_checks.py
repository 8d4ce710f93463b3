"""What a step of training is given, checked when the step is traced."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..base.errors import TrainingError
from ..base.specs import format_short, format_spec, specs_of
from ..inspection.donation import check_not_donated
from . import optimizer
from .state import TrainState, check_patterns, split_trained


def check_state(step: Any, state: object) -> None:
    """Raises unless the state is one of this step."""
    if not isinstance(state, TrainState):
        raise TrainingError(
            "state must be a TrainState", got=format_short(state), hint="step.start(key, x)"
        )
    check_not_donated(state)
    hint = "step.start(key, x) makes the state that a step starts with"
    for name, option in (("ema", step.ema), ("loss_scale", step.loss_scale)):
        if (getattr(state, name) is None) != (option is None):
            which = "has no" if option is not None else "has an unused"
            raise TrainingError(f"the state {which} {name}", hint=hint)
    trained, _ = split_trained(state.params, check_patterns(step.frozen))
    # Abstractly, while the step is traced: moments as large as the model are not made for this.
    expected: object = jax.tree.structure(
        jax.eval_shape(functools.partial(optimizer.init, step.tx), trained, state.params)
    )
    got: object = jax.tree.structure(state.opt_state)
    if expected != got:
        raise TrainingError(
            "opt_state is not that of this optimiser and these trained parameters",
            expected=format_short(expected),
            got=format_short(got),
            hint=hint,
        )


def check_batch(batch: object, steps: int) -> None:
    """Raises unless the batch is a tuple, and holds as many batches as there are steps."""
    if not isinstance(batch, tuple | list) or not batch:
        raise TrainingError(
            "the batch must be a tuple", expected="(x, *targets)", got=format_short(batch)
        )
    if steps == 1:
        return
    for leaf in jax.tree.leaves(batch):
        if jnp.shape(leaf)[:1] != (steps,):
            raise TrainingError(
                f"the batch does not hold {steps} batches",
                expected=f"the first axis of every array is steps={steps}",
                got=format_spec(specs_of(batch)),
                hint="jax.tree.map(lambda *leaves: np.stack(leaves), *batches)",
            )
