"""The leaves of a tree: their names, and what a checkpoint says of each.

How to read this file: ``named_leaves`` names them, ``leaf_specs`` describes them. ``LeafSpec`` is
what the manifest has; ``transfer.py`` brings the values to a file and back.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.arrays import native_dtype
from ..base.errors import CheckpointError
from ..base.specs import format_short, path_text
from ..base.types import PyTree, Spec

# Every file format stores these as they are.
_NATIVE = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "float64"),
)
# Complex numbers are stored as pairs of real ones, all other dtypes as a byte an element, so that
# older readers of safetensors files know the dtypes, too.
_PAIRS = {"complex64": "float32", "complex128": "float64"}
_BYTES = (
    *("int2", "int4", "uint2", "uint4", "float4_e2m1fn", "float8_e3m4", "float8_e4m3"),
    *("float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
DTYPES = {
    name: np.dtype(getattr(jnp, name) if hasattr(jnp, name) else name)
    for name in (*_NATIVE, *_PAIRS, *_BYTES)
    if hasattr(jnp, name) or name in _NATIVE
}
PYTHON = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}
SCALARS = {kind.__name__: dtype for kind, dtype in PYTHON.items()}
# How many uint32 numbers a typed key has, by the name of its algorithm.
KEYS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}


class LeafSpec(NamedTuple):
    """What the manifest says of a leaf.

    Attributes:
      kind: "array"; "key", an array of typed keys; "bool", "int", "float" or "complex", a Python
        number.
      dtype: a name in ``DTYPES``; of a key, that of its numbers.
      shape: of a key, that of the array of keys.
      impl: the algorithm of a key, a name in ``KEYS``; None otherwise.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    impl: str | None = None

    @property
    def label(self) -> str:
        """The dtype for a user to read."""
        if self.kind == "array":
            return self.dtype
        return f"key<{self.impl}>" if self.kind == "key" else f"Python {self.kind}"

    @property
    def stored(self) -> tuple[np.dtype, tuple[int, ...]]:
        """The dtype and shape of the array in the file.

        >>> LeafSpec("array", "complex64", (3,)).stored
        (dtype('float32'), (3, 2))
        """
        if self.kind == "key":
            return DTYPES["uint32"], (*self.shape, KEYS[self.impl or ""])
        if self.dtype in _PAIRS:
            return DTYPES[_PAIRS[self.dtype]], (*self.shape, 2)
        return DTYPES[self.dtype if self.dtype in _NATIVE else "uint8"], self.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the array, exact for sizes of any length, which may come from a file."""
        dtype, shape = self.stored
        return math.prod(shape) * dtype.itemsize

    def __str__(self) -> str:
        shape = f"[{', '.join(map(str, self.shape))}]"
        return self.label + (shape if self.kind in ("array", "key") else "")


def named_leaves(tree: PyTree, what: str) -> dict[str, object]:
    """The leaves of a tree by path, in its order.

    Raises:
      CheckpointError: if two leaves have the same path, or one has a path that a file cannot store.
    """
    leaves: dict[str, object] = {}
    exact: dict[str, str] = {}  # by stored name: the path as JAX writes it
    for path, leaf in _leaves(tree, what):
        text, full = path_text(path), jax.tree_util.keystr(path)
        name = stored_name(text)
        if name in exact:
            raise CheckpointError(
                f"two leaves of {what} have the path {text!r}",
                got=f"{exact[name]} and {full}",
                hint="rename one of them",
            )
        leaves[text], exact[name] = leaf, full
    return leaves


def _leaves(tree: PyTree, what: str) -> list[tuple[tuple[object, ...], object]]:
    try:
        return jax.tree.leaves_with_path(tree)
    except (ValueError, TypeError) as error:
        # JAX's words for dicts; what else it raises is a user's own node, and stays as it is.
        if "sort" not in str(error):
            raise
        raise CheckpointError(
            f"a dict in {what} has keys that cannot be sorted", hint="strings for keys"
        ) from None


def stored_name(path: str) -> str:
    """The name of a path's array in a file: Unicode has no bytes for lone surrogates.

    safetensors reserves one name. No path of a tree begins with a dot and a slash.

    >>> stored_name("encoder/kernel"), stored_name("\\ud800")
    ('encoder/kernel', '\\\\ud800')
    """
    if path == "__metadata__":
        return "./__metadata__"
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def leaf_specs(leaves: dict[str, object], what: str) -> dict[str, LeafSpec]:
    """What the manifest says of each leaf.

    Raises:
      CheckpointError: for a leaf that a checkpoint cannot hold.
    """
    return {path: _leaf_spec(path, leaf, what) for path, leaf in leaves.items()}


def _leaf_spec(path: str, leaf: object, what: str) -> LeafSpec:
    traced = isinstance(leaf, jax.core.Tracer)
    if type(leaf) in PYTHON:
        return LeafSpec(type(leaf).__name__, PYTHON[type(leaf)], ())
    dtype, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", None)
    if isinstance(leaf, np.ma.MaskedArray):
        # The file would hold the masked values, without the mask.
        dtype = native_dtype(leaf, f"{path!r} of {what}")
    elif not isinstance(dtype, np.dtype) and not isinstance(leaf, jax.Array | Spec):
        dtype = None  # of another library
    if dtype is not None and shape is not None and not traced:
        shape = tuple(shape)
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            impl = _key_impl(dtype)
            if impl is not None:
                return LeafSpec("key", "uint32", shape, impl)
        # Other extended dtypes have no numbers to store.
        elif not jnp.issubdtype(dtype, jax.dtypes.extended) and np.dtype(dtype).name in DTYPES:
            return LeafSpec("array", np.dtype(dtype).name, shape)
    hint = "np.asarray(x)" if hasattr(leaf, "__array__") and dtype is None else None
    raise CheckpointError(
        f"a checkpoint cannot hold {path!r} of {what}",
        expected="arrays of numbers, typed keys, Python numbers",
        got=f"a traced {format_short(leaf)}" if traced else format_short(leaf),
        hint="save outside jax.jit" if traced else hint,
    )


@functools.cache
def _key_impl(dtype: np.dtype) -> str | None:
    # A dtype of keys does not say publicly which algorithm it is of: the known ones are compared.
    for impl in KEYS:
        if jax.eval_shape(lambda impl=impl: jax.random.key(0, impl=impl)).dtype == dtype:
            return impl
    return None
