"""Whether a step was asked for, and is given, what it can take."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ...errors import LayerError
from ...specs import brief, show, specs_of


def check_between(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise LayerError(f"{name} must be between {low} and {high}, got {value!r}")


def check_batch(batch: Any, steps: int) -> None:
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
