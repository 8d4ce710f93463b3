"""What a loop over layers recomputes in its backward pass, instead of storing it."""

from __future__ import annotations

from typing import Any

# Elementwise operations, and those that only change a layout. Each is a part of some loop that
# reads and writes memory anyway; stored, it is one more array of fresh memory for every layer.
# fmt: off
_ELEMENTWISE = {
    "abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "convert_element_type",
    "copy", "cos", "div", "erf", "erf_inv", "exp", "exp2", "expm1", "floor", "integer_pow",
    "is_finite", "log", "log1p", "logistic", "max", "min", "mul", "neg", "not",
    "one_minus_square",  # of JAX 0.12, in the derivative of tanh
    "or", "pow", "rem", "round", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "sub",
    "tan", "tanh", "xor",
}
# fmt: on
_LAYOUT = {"broadcast_in_dim", "expand_dims", "iota", "reshape", "squeeze", "transpose"}
_RECOMPUTED = _ELEMENTWISE | _LAYOUT


def stores_the_rest(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of ``jax.checkpoint``: elementwise operations are recomputed, all else is stored.

    Comparisons are stored: what they give has a byte for each value, and may come from random bits.

    >>> import jax, jax.numpy as jnp
    >>> f = jax.checkpoint(lambda x: jnp.tanh(jnp.tanh(x)).sum(), policy=stores_the_rest)
    >>> jax.grad(f)(0.0).item()
    1.0
    """
    return primitive.name not in _RECOMPUTED
