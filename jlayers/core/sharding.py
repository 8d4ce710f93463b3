"""Arrays that lie on several devices."""

from __future__ import annotations

import jax


def is_spread(x: jax.Array) -> bool:
    """Whether an axis of ``x`` is spread over an explicit axis of a mesh.

    JAX then has to know of every operation how its result is spread, and knows it best of its own.
    """
    return any(jax.typeof(x).sharding.spec)
