"""Making parameters at init, and using them in apply.

Parameters are stored in float32 (float64 for float64 inputs) and used in the dtype of the input,
so that a bfloat16 input gives a bfloat16 output from parameters that keep their precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .errors import LayerError
from .naming import child_key
from .specs import Params, PyTree, floating_dtype, show, storage_dtype

Initializer = Callable[..., jax.Array]


def make(
    key: jax.Array, name: str, init: Initializer, shape: Sequence[int], dtype: Any
) -> jax.Array:
    """One parameter from an initialiser, ``init(key, shape, dtype)``, checked.

    The key is folded with the parameter's name, as a child's is.
    """
    if not callable(init):
        raise LayerError(
            f"the initialiser of {name!r} is no function",
            expected="a function of (key, shape, dtype), as in jax.nn.initializers",
            got=repr(init)[:60],
            mend=f"jax.nn.initializers.constant({init!r})" if isinstance(init, float) else None,
        )
    value = init(child_key(key, name), tuple(shape), dtype)
    if callable(value):
        raise LayerError(
            f"the initialiser of {name!r} gave a function", mend="call it: glorot_uniform()"
        )
    if getattr(value, "shape", None) != tuple(shape):
        raise LayerError(
            f"the initialiser of {name!r} gave another shape",
            expected=f"{list(shape)}",
            got=show(value),
        )
    return value


def initialize(
    key: jax.Array, x: PyTree, **wanted: tuple[Initializer, Sequence[int]] | None
) -> Params:
    """``{name: parameter}`` for ``name=(init, shape)``; a name with None is left out.

    Args:
      key: the layer's key.
      x: the layer's input, whose dtype decides the parameters'.
    """
    dtype = storage_dtype(x)
    return {
        name: make(key, name, how[0], how[1], dtype)
        for name, how in wanted.items()
        if how is not None
    }


def cast_like(params: PyTree, x: PyTree) -> PyTree:
    """The parameters in the floating dtype of ``x``; as they are where ``x`` has none."""
    dtype = floating_dtype(x)
    return params if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), params)
