"""The dtype of arithmetic that must not lose precision."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np


def at_least_float32(dtype: Any) -> Any:
    """``dtype``, or float32 for the narrower floats."""
    # Not jnp.promote_types, which refuses two different dtypes under strict promotion.
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def lowest_of(dtype: Any) -> np.ndarray:
    """What no value of the dtype is below, a scalar: minus infinity for floats."""
    floating = jnp.issubdtype(dtype, jnp.floating)
    return np.array(-np.inf if floating else np.iinfo(dtype).min, dtype)
