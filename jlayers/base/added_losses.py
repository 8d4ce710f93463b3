"""Losses that layers add from inside: ``f.add_loss`` of a compose body.

``collecting`` takes them, and says how they leave a transformation of JAX.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..core.dtypes import at_least_float32
from .errors import LayerError
from .specs import format_short


def check_loss(value: object) -> jax.Array:
    """A floating scalar, as an array.

    Raises:
      LayerError: for anything else.
    """
    array = jnp.asarray(value) if isinstance(value, int | float) else value
    if (
        not isinstance(array, jax.Array)
        or array.shape
        or not jnp.issubdtype(array.dtype, jnp.floating)
    ):
        raise LayerError(
            "add_loss takes a floating scalar",
            got=format_short(value),
            hint="its .mean() or .sum()" if getattr(value, "ndim", 0) else None,
        )
    return array


def total(losses: list[jax.Array]) -> jax.Array:
    """Their sum, in float32 at least; 0 for none.

    Raises:
      LayerError: for a loss that comes from inside a transformation that the user called.
    """
    result = jnp.zeros((), jnp.float32)
    try:
        for loss in losses:
            # Narrow floats would lose a small loss beside a large one.
            wide = max(at_least_float32(loss.dtype), result.dtype, key=lambda dtype: dtype.itemsize)
            result = result.astype(wide) + loss.astype(wide)
    except jax.errors.UnexpectedTracerError as error:
        raise LayerError(
            "a loss was added inside a transformation of JAX that the body calls",
            expected="f.add_loss of a value that the transformation returned",
            hint="jl.repeat, jl.ensemble and jl.remat collect what is added inside them",
        ) from error
    return result
