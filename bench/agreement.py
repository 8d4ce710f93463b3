"""Whether a contender computes what the row says."""

from typing import Any

import jax
import numpy as np

# Of the largest wanted value of each array: rounding goes with the terms of the sums.
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2}
# Accelerators multiply float32 in TensorFloat-32 (10 bits) unless told otherwise.
TENSOR_FLOAT_32 = 5e-3


def disagreement(got: Any, wanted: Any, tolerance: float) -> str | None:
    """None where two trees agree, else where and by how much they differ."""
    have, shape = jax.tree.flatten(got)
    want, wanted_shape = jax.tree.flatten_with_path(wanted)
    if shape != wanted_shape:
        return f"results of another structure: {shape}, not {wanted_shape}"
    for (path, right), value in zip(want, have, strict=True):
        where = jax.tree_util.keystr(path) or "result"
        right, value = np.asarray(right, np.float64), np.asarray(value).astype(np.float64)
        if right.shape != value.shape:
            return f"{where} has shape {value.shape}, not {right.shape}"
        largest = np.max(np.abs(right), initial=0.0) or 1.0
        error = np.max(np.abs(value - right), initial=0.0) / largest
        if not error <= tolerance:
            return f"{where} is off by {error:.1e} of its largest value (allowed {tolerance:.0e})"
    return None
