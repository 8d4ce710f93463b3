"""Shapes and dtypes of trees: what a layer may know of its input at init."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.dtypes import at_least_float32
from . import sequence
from .errors import LayerError, public_api, truncate
from .repr_text import value_text

PyTree = Any
Params = dict[str, Any]
State = dict[str, Any]
Spec = jax.ShapeDtypeStruct
# Sizes may be symbolic, as in jax.export: what is surely none is refused, all else let through.
_NO_SIZE = (type(None), bool, float, np.floating, str, tuple, list, dict, jax.Array, np.ndarray)


@public_api
def spec(shape: Sequence[int], dtype: Any = jnp.float32) -> Spec:
    """Short for a ``jax.ShapeDtypeStruct``, float32 unless said otherwise.

    >>> spec((32, 784))
    ShapeDtypeStruct(shape=(32, 784), dtype=float32)
    """
    return checked_spec("a shape", shape, dtype)


def checked_spec(what: str, shape: Any, dtype: Any) -> Spec:
    """``Spec(shape, dtype)`` from a user's arguments; ``what`` is the shape, for the message."""
    sizes = tuple(shape) if isinstance(shape, tuple | list) else (None,)
    if any(isinstance(n, _NO_SIZE) or (isinstance(n, int) and n < 0) for n in sizes):
        hint = None
        if isinstance(shape, int):
            hint = f"({shape},)"
        elif isinstance(shape, jax.Array | np.ndarray):
            hint = "x.shape"
        raise LayerError(f"{what} must be a tuple of sizes, got {format_short(shape)}", hint=hint)
    try:
        return Spec(sizes, dtype)
    except TypeError:
        raise LayerError(f"no dtype: {format_short(dtype)}") from None


def specs_of(tree: PyTree, what: str = "x") -> PyTree:
    """The tree with a ``ShapeDtypeStruct`` for every leaf; numpy dtypes as JAX will see them."""
    return jax.tree.map(lambda leaf: _spec_of(leaf, what), tree)


def _spec_of(leaf: Any, what: str) -> Spec:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        dtype = leaf.dtype
        if isinstance(leaf, np.ndarray | np.generic) and dtype.kind in "OUSMmV":
            raise LayerError(f"{what} holds an array of dtype {dtype}", expected="numbers")
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return Spec(leaf.shape, dtype)
    if isinstance(leaf, bool | int | float | complex):
        return Spec((), jnp.result_type(leaf))
    raise LayerError(
        f"{what} holds a {type(leaf).__name__}",
        expected="arrays or jax.ShapeDtypeStructs",
        got=format_short(leaf),
    )


def as_array(leaf: Any) -> jax.Array:
    """What a user passed for an input's array.

    Raises:
      LayerError: for a spec.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise LayerError(
            "apply got a spec, and computes with arrays",
            got=format_spec(leaf),
            hint="jl.out_spec(layer, x) for shapes alone",
        )
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)


def refuse_numbers(x: PyTree) -> None:
    """Raises where an input holds a tuple of Python numbers, which most likely is a shape."""
    for node in jax.tree.leaves(x, is_leaf=_is_numbers):
        if _is_numbers(node):
            hint = "jnp.asarray(x)"
            if all(n is None or type(n) is int for n in node):
                sizes = tuple(1 if n is None or n < 0 else n for n in node)
                hint = f"jl.spec({sizes}) for an input of this shape; jnp.asarray for numbers"
            raise LayerError(
                "x holds Python numbers",
                expected="arrays or jax.ShapeDtypeStructs",
                got=format_short(node),
                hint=hint,
            )


def _is_numbers(node: Any) -> bool:
    if not isinstance(node, tuple | list):
        return False
    numbers = [n for n in node if n is not None]
    return bool(numbers) and all(isinstance(n, int | float | complex) for n in numbers)


def path_text(path: tuple[Any, ...]) -> str:
    """A path of ``jax.tree_util`` as ``encoder/conv_1/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def spec_key(specs: PyTree) -> Hashable:
    """A key under which all that depends on ``specs`` alone can be remembered."""
    leaves, treedef = jax.tree.flatten(specs)
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return x64, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def placeholders(specs: PyTree) -> PyTree:
    """Zeros of the given specs; inside ``jax.eval_shape`` nothing is computed."""
    return jax.tree.map(_placeholder, specs)


def _placeholder(leaf: Spec) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)


def format_spec(tree: PyTree) -> str:
    """``float32[32, 784]``; tuples and dicts of these; all else as code, on one line."""
    if sequence.is_sequence(tree):
        return f"Sequence {format_spec(tree.values)}"
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        return f"{tree.dtype}[{', '.join(map(str, tree.shape))}]"
    if isinstance(tree, dict):
        return (
            "{" + ", ".join(f"{name}: {format_spec(value)}" for name, value in tree.items()) + "}"
        )
    if isinstance(tree, list):
        return f"[{', '.join(map(format_spec, tree))}]"
    if isinstance(tree, tuple):
        return f"({', '.join(map(format_spec, tree))}{',' if len(tree) == 1 else ''})"
    return truncate(value_text(tree))


def format_short(tree: PyTree) -> str:
    """``show``, cut to fit on a line beside other text."""
    return truncate(format_spec(tree))


def floating_dtype(x: PyTree) -> Any:
    """dtype of the first floating (or complex) leaf of ``x``, None where all are integers."""
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf.dtype
    return None


def storage_dtype(x: PyTree) -> Any:
    """dtype in which parameters for the input ``x`` are stored: float32, or wider if ``x`` is.

    Parameters of a bfloat16 model are kept in float32, and used in the dtype of the input.
    """
    dtype = floating_dtype(x)
    return jnp.float32 if dtype is None else at_least_float32(dtype)
