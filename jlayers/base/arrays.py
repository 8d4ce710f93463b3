"""Arrays as users have them: of JAX, of NumPy in all its kinds, and of other libraries.

``native`` is where each of them enters jlayers: JAX takes what it returns, with the same values, or
it says what the array is and what to write instead.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import LayerError
from .types import PyTree, Spec

# Looked at first, since most arrays are of them.
USUAL = frozenset(np.dtype(char) for char in "?bhilBHILefdFD")
# What JAX has no dtype for, but NumPy has the same numbers in one that it has.
_NARROWER = {np.dtype(np.longdouble): np.float64, np.dtype(np.clongdouble): np.complex128}
# By the kind of a NumPy dtype.
_INSTEAD = {
    "O": "np.asarray(x.tolist()) for numbers, jl.Sequence.from_rows(rows) for sequences",
    "U": "integer ids of the words, for an Embedding",
    "S": "np.frombuffer(x, np.uint8) for bytes",
    "M": "(x - x[0]) / np.timedelta64(1, 's') for seconds",
    "m": "x / np.timedelta64(1, 's') for seconds",
    "V": "a dict or a tuple of arrays, one for each field",
}


def native(leaf: Any, what: str = "x") -> Any:
    """An array that JAX takes, with the values of ``leaf``; specs and Python numbers as they are.

    Of NumPy: other byte orders and ``longdouble`` are converted, a masked array in which nothing is
    masked is its data. Of other libraries: what NumPy or DLPack can read.

    Raises:
      LayerError: for what holds no numbers or masked ones, or cannot be read.
    """
    if isinstance(leaf, jax.Array | Spec | bool | int | float | complex):
        return leaf
    if isinstance(leaf, np.ndarray | np.generic):
        dtype = native_dtype(leaf, what)
        array: Any = np.asarray(leaf)
        return array if array.dtype == dtype else array.astype(dtype)
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return _foreign(leaf, what)
    raise LayerError(
        f"{what} holds a {type(leaf).__name__}",
        expected="arrays or jax.ShapeDtypeStructs",
        got=repr(leaf)[:72],
    )


def native_dtype(leaf: Any, what: str = "x") -> Any:
    """The dtype of ``native(leaf)``; data is read only where another library's has to be."""
    dtype = leaf.dtype
    if dtype in USUAL and not isinstance(leaf, np.ma.MaskedArray):
        return dtype
    if not isinstance(dtype, np.dtype):
        # Typed keys have an extended dtype; that of other libraries means nothing to NumPy.
        if isinstance(leaf, jax.Array | Spec):
            return dtype
        return _foreign(leaf, what).dtype
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
        raise LayerError(
            f"{what} holds a masked array, and the mask would be lost",
            expected="an array without masked values",
            got=f"{dtype}{list(leaf.shape)}, {leaf.size - leaf.count()} of {leaf.size} masked",
            hint="x.filled(value); jl.Sequence(values, mask) for steps that are padding",
        )
    if dtype.kind in "biufc":
        dtype = np.dtype(_NARROWER.get(dtype.newbyteorder("="), dtype.newbyteorder("=")))
    # The dtypes of ml_dtypes, such as bfloat16, are of kind "V" or "f".
    if jnp.issubdtype(dtype, jnp.number):
        return dtype
    raise LayerError(
        f"{what} holds an array of dtype {leaf.dtype}",
        expected="numbers",
        hint=_INSTEAD.get(dtype.kind),
    )


def is_native(leaf: np.ndarray) -> bool:
    """Whether JAX takes an array of NumPy as it is."""
    dtype = leaf.dtype
    return not isinstance(leaf, np.ma.MaskedArray) and dtype.isnative and dtype not in _NARROWER


def native_tree(tree: PyTree, what: str) -> PyTree:
    """``tree`` with the arrays of NumPy and of other libraries in a form that JAX takes."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) or not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            return leaf
        return native(leaf, what)

    # Parameters may have keys that jax.tree cannot sort; they are refused by path.
    if type(tree) is dict:
        return {name: native_tree(entry, what) for name, entry in tree.items()}
    return jax.tree.map(one, tree)


def _foreign(leaf: Any, what: str) -> Any:
    """The values of another library's array, or of what only looks like a spec."""
    kind = f"{type(leaf).__module__.split('.')[0]}.{type(leaf).__name__}"
    if getattr(leaf, "requires_grad", False):
        raise LayerError(
            f"{what} holds a {kind} that requires a gradient, which JAX would not give it",
            hint="x.detach()",
        )
    if isinstance(leaf.dtype, np.dtype) and not hasattr(leaf, "__array__"):
        return leaf
    # Each library raises errors of its own. NumPy has no bfloat16, and DLPack wants no gaps.
    for read in (np.asarray, jnp.from_dlpack, lambda x: jnp.from_dlpack(x.contiguous())):
        try:
            array: Any = read(leaf)
        except Exception:
            continue
        if array.shape == tuple(leaf.shape):
            return native(array, what)
    raise LayerError(
        f"{what} holds a {kind} that NumPy cannot read",
        expected="arrays or jax.ShapeDtypeStructs",
        got=f"{leaf.dtype}{list(leaf.shape)}",
        hint="np.asarray(x.cpu())",
    )
