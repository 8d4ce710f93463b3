"""Making parameters at init, and using them in apply.

Parameters are stored in float32 (float64 for float64 inputs) and used in the dtype of the input,
so that a bfloat16 input gives a bfloat16 output from parameters that keep their precision.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from . import arguments
from .errors import LayerError, calling_user_code
from .initialization import Path, Wanted
from .naming import child_key
from .repr_text import function_text
from .specs import Params, PyTree, floating_dtype, format_spec, specs_of, storage_dtype

Initializer = Callable[..., jax.Array]
_made: contextvars.ContextVar[list[tuple[Any, Any]] | None] = contextvars.ContextVar(
    "_made", default=None
)


def make(key: Any, name: str, init: Initializer, shape: Sequence[int], dtype: Any) -> Any:
    """One parameter from an initialiser, ``init(key, shape, dtype)``, checked.

    The key is folded with the parameter's name, as a child's is. For a ``Path`` in the place of a
    key, a ``Wanted`` in the place of a parameter.
    """
    if isinstance(key, Path):  # checked by the abstract pass, and made with all others
        return Wanted(child_key(key, name), init, tuple(shape), dtype)
    what = f"the initialiser of {name!r}"
    arguments.function(what, init, "key, shape, dtype")
    with calling_user_code(what):
        value = init(child_key(key, name), tuple(shape), dtype)
    if callable(value):
        raise LayerError(f"{what} gave a function", hint=f"call it: {function_text(init)}()")
    wanted = specs_of(jax.ShapeDtypeStruct(tuple(shape), dtype))
    if specs_of(value, what) != wanted:
        raise LayerError(
            f"{what} gave another shape or dtype",
            expected=format_spec(wanted),
            got=format_spec(value),
        )
    value = value if isinstance(value, jax.Array) else jnp.asarray(value)
    made = _made.get()
    if made is not None:
        made.append((key, value))
    return value


@contextlib.contextmanager
def watched() -> Iterator[list[tuple[Any, Any]]]:
    """Collects the (key, value) of every parameter that ``make`` makes inside."""
    before = _made.set([])
    try:
        yield _made.get()  # type: ignore[misc]
    finally:
        _made.reset(before)


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
