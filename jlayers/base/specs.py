"""Shapes and dtypes of trees: all that a layer knows of its input at init.

How to read this file: ``spec`` and ``specs_of`` make ``jax.ShapeDtypeStruct``s; ``format_spec``
shows them in errors; ``storage_dtype`` and ``cast_like`` decide the dtypes of parameters;
``tree_matches`` compares a tree with its specs, on the path of every ``apply``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from ..core.dtypes import at_least_float32
from . import sequence
from .arrays import USUAL, is_native, native, native_dtype
from .errors import LayerError, public_api, truncate
from .masks import to_jax_array
from .repr_text import value_text
from .types import PyTree, Spec

# Sizes may be symbolic, as in jax.export: only what certainly is not a size is refused.
_NO_SIZE = (type(None), bool, float, np.floating, str, tuple, list, dict, jax.Array, np.ndarray)


@public_api
def spec(shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Spec:
    """A ``jax.ShapeDtypeStruct``, float32 by default.

    >>> spec((32, 784))
    ShapeDtypeStruct(shape=(32, 784), dtype=float32)
    """
    return checked_spec("a shape", shape, dtype)


def checked_spec(what: str, shape: Sequence[int], dtype: DTypeLike) -> Spec:
    """``Spec(shape, dtype)`` from a user's arguments; ``what`` is the shape, for the message."""
    # An int or an array is not a shape; the placeholder makes the test below refuse it.
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
        raise LayerError(f"expected a dtype, got {format_short(dtype)}") from None


def specs_of(tree: PyTree, what: str = "x") -> PyTree:
    """The tree with a ``ShapeDtypeStruct`` for every leaf; NumPy dtypes become those of JAX."""
    return jax.tree.map(lambda leaf: _spec_of(leaf, what), tree)


def _spec_of(leaf: PyTree, what: str) -> Spec:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        dtype = leaf.dtype
        # A traced array is of one of these: it enters no other module.
        if dtype not in USUAL or isinstance(leaf, np.ma.MaskedArray):
            dtype = native_dtype(leaf, what)
        # Keys have an extended dtype, which canonicalize_dtype refuses.
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = jax.dtypes.canonicalize_dtype(dtype)
        return Spec(leaf.shape, dtype)
    if isinstance(leaf, bool | int | float | complex):
        # A Python number is an array of rank 0, as for jnp.
        return Spec((), jnp.result_type(leaf))
    raise LayerError(
        f"{what} holds a {type(leaf).__name__}",
        expected="arrays or jax.ShapeDtypeStructs",
        got=format_short(leaf),
    )


def input_specs(x: PyTree) -> PyTree:
    """The specs of what a user passed for an input.

    Raises:
      LayerError: for a tuple of Python numbers, and for what is neither an array nor a spec.
    """
    # Most likely a tuple of numbers is a shape.
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
    return specs_of(x)


def as_array(leaf: ArrayLike | Spec) -> jax.Array:
    """An array that a user passed, as a JAX array.

    Raises:
      LayerError: for a spec, and for integers that do not fit into JAX's 32 bits.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise LayerError(
            "apply computes with arrays, and got a spec",
            got=format_spec(leaf),
            hint="jl.out_spec(layer, x) for shapes alone",
        )
    return leaf if isinstance(leaf, jax.Array) else to_jax_array(native(leaf))


def _is_numbers(node: object) -> bool:
    if not isinstance(node, tuple | list):
        return False
    numbers = [n for n in node if n is not None]
    return bool(numbers) and all(isinstance(n, int | float | complex) for n in numbers)


def path_text(path: tuple[object, ...]) -> str:
    """A path of ``jax.tree_util`` as ``encoder/conv_1/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def spec_key(specs: PyTree) -> Hashable:
    """A dictionary key for what depends on ``specs`` alone."""
    leaves, treedef = jax.tree.flatten(specs)
    # With another x64 mode the same specs lead to other dtypes inside.
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return x64, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def specs_of_key(key: Any) -> PyTree:
    """The specs that ``spec_key`` was given."""
    _, treedef, leaves = key
    return jax.tree.unflatten(treedef, [Spec(*leaf) for leaf in leaves])


def placeholders(specs: PyTree) -> PyTree:
    """Zeros of the given specs; inside ``jax.eval_shape`` nothing is computed."""
    return jax.tree.map(_placeholder, specs)


def _placeholder(leaf: Spec) -> jax.Array:
    # jnp.zeros cannot make keys.
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jnp.zeros(leaf.shape, leaf.dtype)


def format_spec(tree: PyTree) -> str:
    """``float32[32, 784]``; tuples and dicts of these; anything else as code, on one line."""
    if sequence.is_sequence(tree):
        return f"Sequence {format_spec(tree.values)}"
    if hasattr(tree, "shape") and hasattr(tree, "dtype"):
        masked = "masked " * isinstance(tree, np.ma.MaskedArray)
        return f"{masked}{tree.dtype}[{', '.join(map(str, tree.shape))}]"
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
    """``format_spec``, truncated to fit on a line with other text."""
    return truncate(format_spec(tree))


def floating_dtype(x: PyTree) -> np.dtype[Any] | None:
    """The dtype of the first floating or complex leaf of ``x``; None where there is none."""
    for leaf in jax.tree.leaves(x):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            dtype: np.dtype[Any] = leaf.dtype
            return dtype
    return None


def storage_dtype(x: PyTree) -> np.dtype[Any]:
    """The dtype in which parameters for the input ``x`` are stored: float32 or wider."""
    dtype = floating_dtype(x)
    return np.dtype(np.float32 if dtype is None else at_least_float32(dtype))


def cast_like(params: PyTree, x: PyTree) -> PyTree:
    """The parameters in the floating dtype of ``x``; as they are where ``x`` has none.

    Parameters are stored in float32 and used in the dtype of the input, so that a bfloat16 input
    gives a bfloat16 output from parameters that keep their precision.
    """
    dtype = floating_dtype(x)
    # Integer inputs, ids for instance, say nothing about the dtype of the computation.
    return params if dtype is None else _cast(params, dtype)


def _cast(params: PyTree, dtype: np.dtype[Any]) -> PyTree:
    # Not by jax.tree, which looks into a lazy weight: only its array is to have the dtype.
    if isinstance(params, dict):
        return {name: _cast(entry, dtype) for name, entry in params.items()}
    return params.astype(dtype)


def tree_matches(tree: object, expected: Mapping[str, Any]) -> bool:
    """Whether ``tree`` has the structure, the shapes and the kinds of dtype of ``expected``."""
    return (
        # A subclass of dict is not: jax.tree would rebuild it as another type.
        type(tree) is dict
        and tree.keys() == expected.keys()
        and all(
            tree_matches(tree[name], spec)
            if isinstance(spec, dict)
            else leaf_matches(tree[name], spec)
            for name, spec in expected.items()
        )
    )


def leaf_matches(leaf: PyTree, spec: Spec) -> bool:
    """Whether an array has the shape of a spec, and a dtype of the same kind.

    A float may be any float: parameters cast to bfloat16 are still the model's own.
    """
    if not isinstance(spec, jax.ShapeDtypeStruct) or isinstance(leaf, jax.ShapeDtypeStruct):
        return False
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return False
    if isinstance(leaf, np.ndarray) and not is_native(leaf):
        return False
    if tuple(leaf.shape) != tuple(spec.shape):
        return False
    # Within a kind any precision is accepted, across kinds none: a float is not an integer.
    try:
        for kind in (jnp.floating, jnp.complexfloating):
            if jnp.issubdtype(spec.dtype, kind):
                return bool(jnp.issubdtype(leaf.dtype, kind))
        return bool(leaf.dtype == spec.dtype)
    except TypeError:  # the dtype of another library
        return False
