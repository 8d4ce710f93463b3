"""Haiku."""

from typing import Any

import numpy as np

from ..weights import Arrays, renamed

PARTS = {"attend_out": "attend_linear"}


def layout(arrays: Arrays) -> Arrays:
    if "recurrent_kernel" in arrays:
        both = np.concatenate([arrays["kernel"], arrays["recurrent_kernel"]])
        # It adds one to the forget gate itself; gradients are given with zeros instead.
        one = np.repeat([0.0, 1.0, 0.0, 0.0], len(arrays["bias"]) // 4)
        bias = arrays["bias"] - arrays.get("forget_one", one).astype(arrays["bias"].dtype)
        return {"linear/w": _igfo(both), "linear/b": _igfo(bias)}
    if "scale" in arrays:
        return renamed(arrays, scale="scale", offset="bias")
    return renamed(arrays, w="kernel", b="bias", embeddings="embedding")


def _igfo(value: Any) -> Any:
    """The order of the gates in Haiku."""
    i, f, g, o = np.split(value, 4, axis=-1)
    return np.concatenate([i, g, f, o], axis=-1)
