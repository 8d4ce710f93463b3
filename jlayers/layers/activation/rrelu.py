"""RReLU: a leaky ReLU whose slopes are drawn at random while training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base import arguments
from ...base.arguments import Number
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.types import Key, Params, State
from ...core.dtypes import at_least_float32


@factory
def RReLU(lower: Number = 1 / 8, upper: Number = 1 / 3) -> Layer:
    """``x`` from 0 on, and ``slope * x`` below (Xu et al., 2015, arXiv:1505.00853).

    In training each value has a slope of its own, uniform from ``lower`` to ``upper``; otherwise it
    is their mean.

    Args:
      lower, upper: the slopes' limits.

    Shapes:
      x: one array of real floats. y: of the same shape and dtype.

    Raises:
      LayerError: for a ``lower`` above ``upper``, and for ``train=True`` without a key, unless the
        two are equal.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> jl.RReLU(0.25, 0.75).apply({}, {}, jnp.array([-2.0, 3.0]))[0].tolist()
    [-1.0, 3.0]
    """
    if lower > upper:
        raise LayerError(f"lower must be at most upper, got {lower:g} and {upper:g}")

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        arguments.one_array(x, "one array")
        arguments.floating(x)
        arguments.real(x)
        return {}, {}

    def apply(
        params: Params, state: State, x: jax.Array, *, key: Key, train: bool
    ) -> tuple[jax.Array, State]:
        slope: jax.Array | float = (lower + upper) / 2
        if train and lower < upper:
            if key is None:
                raise LayerError("needs a key to train and got none", hint="apply(..., key=key)")
            drawn = jax.random.uniform(key, x.shape, at_least_float32(x.dtype), lower, upper)
            slope = drawn.astype(x.dtype)
        return jnp.where(x >= 0, x, x * slope), state

    return Layer(init, apply, sequence_mode=SequenceMode.PER_STEP)
