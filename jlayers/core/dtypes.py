"""The dtype of arithmetic that must not lose precision."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """``dtype``, or float32 for the narrower floats."""
    # Not jnp.promote_types, which refuses two different dtypes under strict promotion.
    return dtype if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)
