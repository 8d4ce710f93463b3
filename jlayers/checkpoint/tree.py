"""The leaves of a tree as arrays for a file, and back: what a checkpoint holds of each leaf.

How to read this file: ``LeafSpec`` describes a leaf in the manifest. Saving goes through
``named_leaves``, ``leaf_specs`` and ``to_host``; restoring through ``from_file``, which undoes
``LeafSpec.stored``, and ``place_like``, which brings an array to where the template has its own.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import CheckpointError, truncate
from ..base.specs import format_short, path_text
from ..base.types import PyTree
from .formats.base import CorruptFileError

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
_PYTHON = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}
SCALARS = {kind.__name__: dtype for kind, dtype in _PYTHON.items()}
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
    try:
        flat = jax.tree.leaves_with_path(tree)
    except (TypeError, ValueError) as error:  # JAX sorts the keys of a dict
        raise CheckpointError(
            f"the keys of a dict in {what} cannot be sorted",
            expected="keys of one kind in each dict, such as strings",
            got=truncate(repr(tree)),
        ) from error
    for path, leaf in flat:
        text, full = path_text(path), jax.tree_util.keystr(path)
        name = stored_name(text)
        problem, got = (
            f"two leaves of {what} have the path {text!r}",
            f"{exact.get(name)} and {full}",
        )
        if name == "__metadata__":
            problem, got = (
                f"a leaf of {what} has the path {text!r}, which safetensors reserves",
                full,
            )
        if name in exact or name == "__metadata__":
            raise CheckpointError(problem, got=got, hint="rename one of them")
        leaves[text], exact[name] = leaf, full
    return leaves


def stored_name(path: str) -> str:
    """The name of a path's array in a file: Unicode has no bytes for lone surrogates.

    >>> stored_name("encoder/kernel"), stored_name("\\ud800")
    ('encoder/kernel', '\\\\ud800')
    """
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def leaf_specs(leaves: dict[str, object], what: str) -> dict[str, LeafSpec]:
    """What the manifest says of each leaf.

    Raises:
      CheckpointError: for a leaf that a checkpoint cannot hold.
    """
    return {path: _leaf_spec(path, leaf, what) for path, leaf in leaves.items()}


def _leaf_spec(path: str, leaf: object, what: str) -> LeafSpec:
    traced = isinstance(leaf, jax.core.Tracer)
    if type(leaf) in _PYTHON:
        return LeafSpec(type(leaf).__name__, _PYTHON[type(leaf)], ())
    dtype, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", None)
    if dtype is not None and shape is not None and not traced:
        shape = tuple(shape)
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            impl = _key_impl(dtype)
            if impl is not None:
                return LeafSpec("key", "uint32", shape, impl)
        # Other extended dtypes have no numbers to store.
        elif not jnp.issubdtype(dtype, jax.dtypes.extended) and np.dtype(dtype).name in DTYPES:
            return LeafSpec("array", np.dtype(dtype).name, shape)
    raise CheckpointError(
        f"a checkpoint cannot hold {path!r} of {what}",
        expected="arrays of numbers, typed keys, Python numbers",
        got=f"a traced {format_short(leaf)}" if traced else format_short(leaf),
        hint="save outside jax.jit" if traced else None,
    )


@functools.cache
def _key_impl(dtype: np.dtype) -> str | None:
    # A dtype of keys does not say publicly which algorithm it is of: the known ones are compared.
    for impl in KEYS:
        if jax.eval_shape(lambda impl=impl: jax.random.key(0, impl=impl)).dtype == dtype:
            return impl
    return None


def to_host(
    leaves: dict[str, object], specs: dict[str, LeafSpec], what: str, *, copy: bool
) -> dict[str, np.ndarray]:
    """The array to store for every leaf, contiguous.

    Args:
      leaves: as ``named_leaves`` gives them.
      specs: of the leaves.
      what: the name of the tree in messages.
      copy: False allows views of the leaves' own memory, which the next step may overwrite.

    Raises:
      CheckpointError: for an int beyond 64 bits, a deleted array, and one that is not
        wholly on devices of this process.
    """
    arrays = {path: _as_array(path, leaf, what) for path, leaf in leaves.items()}
    for leaf in arrays.values():
        if isinstance(leaf, jax.Array):
            # All copies are started before the first is waited for.
            leaf.copy_to_host_async()
    return {path: _stored(leaf, specs[path], copy) for path, leaf in arrays.items()}


def _as_array(path: str, leaf: object, what: str) -> np.ndarray | jax.Array:
    # The exact types: a NumPy float64 is a Python float, too.
    if isinstance(leaf, bool | int | float | complex) and type(leaf) in _PYTHON:
        try:
            return np.array(leaf, _PYTHON[type(leaf)])
        except OverflowError:
            raise CheckpointError(
                f"{path!r} of {what} is an int that does not fit in 64 bits", got=format_short(leaf)
            ) from None
    if isinstance(leaf, np.ndarray | np.generic):
        return np.asarray(leaf)
    if not isinstance(leaf, jax.Array):
        raise CheckpointError(f"{path!r} of {what} must be an array", got=format_short(leaf))
    if leaf.is_deleted():
        raise CheckpointError(
            f"the memory of {path!r} of {what} was donated",
            got=f"{format_short(leaf)}, deleted",
            hint="save the state that the step returned, not the one donated to it",
        )
    if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        raise CheckpointError(
            f"{path!r} of {what} is sharded over several processes",
            hint="jax.experimental.multihost_utils.process_allgather",
        )
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _stored(leaf: np.ndarray | jax.Array, spec: LeafSpec, copy: bool) -> np.ndarray:
    array = np.asarray(leaf)
    # In native byte order, and contiguous: formats may write the memory as it lies.
    array = np.asarray(array, DTYPES[array.dtype.name], order="C")
    if copy and _shares_memory(leaf) and np.may_share_memory(array, np.asarray(leaf)):
        array = array.copy()
    dtype, shape = spec.stored
    # Flat first, as an array without axes has no view of another size.
    return array.reshape(-1).view(dtype).reshape(shape)


def _shares_memory(leaf: np.ndarray | jax.Array) -> bool:
    """Whether ``np.asarray`` of a leaf is the leaf's own memory, not a copy on the host."""
    if not isinstance(leaf, jax.Array):
        return True
    on_host = {device.platform for device in leaf.devices()} == {"cpu"}
    return on_host or leaf.sharding.memory_kind != "device"


def from_file(path: str, spec: LeafSpec, array: np.ndarray) -> np.ndarray:
    """The array of a leaf from the one in the file; of keys, their numbers.

    Raises:
      CorruptFileError: if it is not the one that ``spec`` describes.
    """
    dtype, shape = spec.stored
    # A format that cannot name a dtype returns bytes of its size.
    unnamed = array.dtype.type is np.void and array.dtype.itemsize == dtype.itemsize
    if array.shape != shape or not (array.dtype == dtype or unnamed):
        wanted = f"{dtype.name}[{', '.join(map(str, shape))}]"
        found = f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"
        raise CorruptFileError(f"{path!r} is {found} in the file, and {wanted} in the manifest")
    if spec.kind == "key":
        return array.view(dtype)
    return array.reshape(-1).view(DTYPES[spec.dtype]).reshape(spec.shape)


def place_like(template: object, spec: LeafSpec, array: np.ndarray) -> object:
    """The array as the template has it: on its devices, in NumPy, or a Python number.

    Raises:
      CheckpointError: for a dtype that JAX has only with 64 bits enabled.
    """
    if spec.kind in SCALARS:
        return array.item()
    # A NumPy scalar is restored as one, not as an array without axes.
    if isinstance(template, np.generic):
        return array[()]
    if isinstance(template, np.ndarray):
        return array
    is_key = spec.kind == "key"
    leaf = jax.random.wrap_key_data(jnp.asarray(array), impl=spec.impl) if is_key else array
    result = jax.device_put(leaf, _sharding_of(template))
    if spec.kind == "array" and result.dtype != array.dtype:
        raise CheckpointError(
            f"{array.dtype} is not enabled in JAX",
            got=f"{array.dtype} in the checkpoint and in the template",
            hint='jax.config.update("jax_enable_x64", True), or a NumPy array in the template',
        )
    return result


def _sharding_of(template: object) -> jax.sharding.Sharding | None:
    # An uncommitted array stays uncommitted, so that a jitted step is not compiled again.
    if not getattr(template, "committed", True):
        return None
    sharding: jax.sharding.Sharding | None = getattr(template, "sharding", None)
    # `jax.eval_shape` of a sharded array has a mesh without devices.
    abstract = isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh)
    return None if abstract else sharding


def is_concrete(leaf: object) -> bool:
    """Whether a leaf of a template has a value."""
    # A template may be the state that was donated: its shapes are known, its values are gone.
    if isinstance(leaf, jax.Array):
        return not leaf.is_deleted()
    return type(leaf) in _PYTHON or isinstance(leaf, np.ndarray | np.generic)
