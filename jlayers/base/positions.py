"""Layers whose output for a step depends on that step and on its position.

A position is how many valid steps of its row come before it: padding in front counts nothing. In
a stream the count goes on from block to block, which is the carry of such a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..core.positions import positions_from_mask
from .constructors import of_steps
from .errors import LayerError
from .layer import Layer
from .receptive_field import ReceptiveField
from .sequence import Sequence, join, split
from .specs import format_spec
from .types import Carry, Params, PyTree

# apply(params, x, positions): x (batch, time, ...), positions int32 (batch, time).
PositionFn = Callable[[Params, jax.Array, jax.Array], jax.Array]


def of_positions(
    init: Callable[[jax.Array, Any], Params], apply: PositionFn, most: int | None = None
) -> Layer:
    """A layer from ``y = apply(params, x, positions)``, which works on each step by itself.

    Args:
      most: how many positions there are. Of a Sequence, whose padding has none, and of a block,
        after others, it is not known when traced whether they are enough.
    """

    def start(params: Params, x: Any, capacity: int | None) -> Carry:
        return {"count": jnp.zeros(x.shape[:1], jnp.int32)}

    def step(params: Params, carry: Carry | None, x: jax.Array | Sequence) -> tuple[PyTree, Carry]:
        values, mask = split(x)
        count = carry["count"] if carry else None
        if mask is None:
            # Of a symbolic number of steps, those beyond the last position are NaN.
            steps = values.shape[1]
            if most is not None and isinstance(steps, int) and steps > most:
                raise LayerError(
                    f"has {most} positions, got {values.shape[1]} steps",
                    got=format_spec(values),
                    hint=f"PositionEmbedding({values.shape[1]}), or SinusoidalPositions()",
                )
            # Not a cumulative sum of ones: its result is known when the program is written.
            steps = jnp.arange(values.shape[1], dtype=jnp.int32)
            positions = jnp.broadcast_to(steps, values.shape[:2])
            if count is not None:
                positions = positions + jnp.broadcast_to(count[:, None], positions.shape)
            valid = jnp.full(values.shape[:1], values.shape[1], jnp.int32)
        else:
            positions = positions_from_mask(mask, count)
            valid = jnp.sum(mask, 1, dtype=jnp.int32)
        y = apply(params, values, positions)
        return join(y, mask), {"count": valid if count is None else count + valid}

    return of_steps(init, start, step, lambda x: ReceptiveField())


def _init(key: jax.Array, x: Any) -> Params:
    if len(getattr(x, "shape", ())) < 2:
        raise LayerError(
            "positions are those of the steps of a sequence",
            expected="(batch, time, ...)",
            got=format_spec(x),
        )
    return {}


# What ``f.positions`` calls in a body: a child that every body has.
POSITIONS = of_positions(_init, lambda params, x, positions: positions)
