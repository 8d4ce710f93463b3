"""onnxruntime, and when its numbers are those of JAX."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...base.errors import InteropError
from ...core.dtypes import rounding_at_zero

# Relative to the largest value of an output, by the bytes of a number.
_TOLERANCE = {1: 1e-1, 2: 2e-2, 4: 1e-4, 8: 1e-9}


def session_of(model: Any) -> Any:
    """A session on one thread, without words, of a graph or the path of a file."""
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return runtime.InferenceSession(
            model if isinstance(model, str) else model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
    except Exception as error:
        raise InteropError(
            "onnxruntime cannot load the graph",
            got=str(error)[:500],
            hint="check=False, if another runtime is meant; its CPU kernels are mostly of float32",
        ) from error


def differs(expected: np.ndarray, got: np.ndarray) -> str | None:
    """How an array is not what it should be; None if it is."""
    if expected.shape != got.shape or expected.dtype != got.dtype:
        return f"{got.dtype}{list(got.shape)} in place of {expected.dtype}{list(expected.shape)}"
    if expected.dtype.kind not in "fV":
        if np.array_equal(expected, got):
            return None
        where = tuple(int(i) for i in np.argwhere(expected != got)[0])
        return f"{got[where]} in place of {expected[where]} at {where}"
    relative, floor = _TOLERANCE[expected.dtype.itemsize], rounding_at_zero(expected.dtype)
    expected, got = expected.astype(np.float64), got.astype(np.float64)
    # Of its own numbers: with any other scale, outputs of 1e-6 would be equal to whatever is small.
    largest = float(np.max(np.abs(expected), initial=0, where=np.isfinite(expected)))
    if np.allclose(got, expected, rtol=0, atol=relative * largest + floor, equal_nan=True):
        return None
    with np.errstate(invalid="ignore"):
        apart = np.abs(got - expected)
    apart[(got == expected) | (np.isnan(got) & np.isnan(expected))] = 0
    return f"{float(np.nan_to_num(apart, nan=np.inf).max()):.1e} apart, of {largest:.1e}"
