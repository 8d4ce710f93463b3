"""Whether a step was asked for, and is given, what it can take, and gives what it has to."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ..base.errors import TrainingError, truncate
from ..base.specs import (
    PyTree,
    format_short,
    format_spec,
    path_text,
    specs_of,
)


def check_between(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
        raise TrainingError(f"{name} must be between {low} and {high}, got {value!r}")


def check_batch(batch: Any, steps: int) -> None:
    if not isinstance(batch, tuple | list) or not batch:
        raise TrainingError(
            "the batch is no tuple", expected="(x, *targets)", got=format_short(batch)
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


def check_result(run: PyTree, result: Any) -> None:
    """What a user's step gives: metrics, and a run with the structure and the shapes of ``run``."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise TrainingError(
            "the step gives no run and metrics",
            expected="a tuple of two: the next run, a dict of scalars",
            got=format_short(result),
        )
    was, now = _leaves(run), _leaves(result[0])
    for path in [*was, *now]:
        before, after = was.get(path), now.get(path)
        if before is None or after is None or before.shape != after.shape:
            raise TrainingError(
                f"the step changes {path!r} of the run",
                expected=format_spec(before) if before else "no such leaf",
                got=format_spec(after) if after else "no such leaf",
            )
    before, after = jax.tree.structure(run), jax.tree.structure(result[0])
    if before != after:
        raise TrainingError(
            "the step changes the structure of the run",
            expected=truncate(str(before)),
            got=truncate(str(after)),
        )


def _leaves(run: PyTree) -> dict[str, jax.ShapeDtypeStruct]:
    specs = specs_of(run, "the run")
    return {path_text(path): leaf for path, leaf in jax.tree.leaves_with_path(specs)}
