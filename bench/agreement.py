"""Whether an implementation computes what its row says; only those that do are timed."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

# Relative to the largest expected value of each array: rounding grows with the terms of the sums.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
# Accelerators multiply float32 in TensorFloat-32 (10 bits) by default.
TENSOR_FLOAT_32 = 5e-3
# Losses after a few steps: rounding grows with each of them.
LOSS_TOLERANCE = {"cpu": 2e-3}
LOSS_TOLERANCE_ELSEWHERE = 2e-2


def tolerance(dtype: str) -> float:
    if dtype == "float32" and jax.default_backend() != "cpu":
        return TENSOR_FLOAT_32
    return TOLERANCE[dtype]


def disagreement(got: Any, expected: Any, tolerance: float) -> str | None:
    """None where two trees agree, otherwise where and by how much they differ."""
    values, structure = jax.tree.flatten(got)
    right_values, right_structure = jax.tree.flatten_with_path(expected)
    if structure != right_structure:
        return f"results of another structure: {structure}, not {right_structure}"
    for (path, right), value in zip(right_values, values, strict=True):
        where = jax.tree_util.keystr(path) or "result"
        right, value = np.asarray(right, np.float64), np.asarray(value).astype(np.float64)
        if right.shape != value.shape:
            return f"{where} has shape {value.shape}, not {right.shape}"
        largest = np.max(np.abs(right), initial=0.0) or 1.0
        error = np.max(np.abs(value - right), initial=0.0) / largest
        # Written so that a NaN does not pass.
        if not error <= tolerance:
            return f"{where} is off by {error:.1e} of its largest value (allowed {tolerance:.0e})"
    return None


def assert_agreement(got: Any, expected: Any) -> None:
    """Compares two float32 results before they are timed against each other.

    Raises:
      AssertionError: where the two trees differ.
    """
    reason = disagreement(got, expected, tolerance("float32"))
    assert reason is None, reason


def deviating_losses(losses: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """The names whose losses differ from the others', and by how much.

    There is no reference here: each curve is compared with the median of all.
    """
    if not losses:
        return {}
    allowed = LOSS_TOLERANCE.get(jax.default_backend(), LOSS_TOLERANCE_ELSEWHERE)
    curves = {name: np.asarray(curve, np.float64).reshape(-1) for name, curve in losses.items()}
    shared = min(curve.size for curve in curves.values())
    if not shared:
        return {name: "gives no losses to compare" for name in curves if not curves[name].size}
    median = np.median([curve[:shared] for curve in curves.values()], axis=0)
    scale = np.maximum(np.abs(median), 1e-6)
    errors = {name: np.abs(curve[:shared] - median) / scale for name, curve in curves.items()}
    return {
        name: f"first losses are off by {np.max(error):.1e} from the median of all"
        f" (allowed {allowed:.0e})"
        for name, error in errors.items()
        if not np.max(error) <= allowed
    }
