"""The leaves of a tree as named bytes, and back: what a checkpoint holds of each."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import CheckpointError
from ..base.specs import PyTree, format_short, path_text

# The names that the safetensors format has had from its first release on.
_CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
# Complex numbers are pairs of real ones; of other dtypes every element is a byte.
_PAIRS = {"complex64": "F32", "complex128": "F64"}
_BYTES = (
    *("int2", "int4", "uint2", "uint4", "float4_e2m1fn", "float8_e3m4", "float8_e4m3"),
    *("float8_e4m3b11fnuz", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
DTYPES = {
    name: np.dtype(getattr(jnp, name) if hasattr(jnp, name) else name)
    for name in (*_CODES, *_PAIRS, *_BYTES)
    if hasattr(jnp, name) or name in _CODES
}
_SCALARS = {bool: "bool", int: "int64", float: "float64", complex: "complex128"}
SCALARS = {kind.__name__: dtype for kind, dtype in _SCALARS.items()}
# How many uint32 numbers a key is, by the name of its algorithm.
KEYS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}


class Entry(NamedTuple):
    """What a checkpoint says of a leaf.

    Attributes:
      kind: "array"; "key", an array of typed keys; "bool", "int", "float" or "complex", a scalar
        of Python.
      dtype: a name in ``DTYPES``; that of the numbers of a key.
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
    def stored(self) -> tuple[str, tuple[int, ...]]:
        """The dtype's name in the safetensors format, and the shape in the file."""
        if self.kind == "key":
            return "U32", (*self.shape, KEYS[self.impl or ""])
        if self.dtype in _PAIRS:
            return _PAIRS[self.dtype], (*self.shape, 2)
        return _CODES.get(self.dtype, "U8"), self.shape

    @property
    def nbytes(self) -> int:
        """Exact for any sizes: they may come from a file."""
        size = KEYS[self.impl or ""] if self.kind == "key" else 1
        for n in self.shape:
            size *= n
        return size * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        shape = f"[{', '.join(map(str, self.shape))}]"
        return self.label + (shape if self.kind in ("array", "key") else "")


def named(tree: PyTree, what: str) -> dict[str, Any]:
    """The leaves of a tree by path, in its order.

    Raises:
      CheckpointError: where two leaves have the same path.
    """
    leaves: dict[str, Any] = {}
    exact: dict[str, str] = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        text, full = path_text(path), jax.tree_util.keystr(path)
        if text in leaves or text == "__metadata__":
            raise CheckpointError(
                f"two leaves of {what} have the path {text!r}"
                if text in leaves
                else f"a leaf of {what} has the path {text!r}, which safetensors keeps for itself",
                got=f"{exact[text]} and {full}" if text in leaves else full,
                hint="another name for one of them",
            )
        leaves[text], exact[text] = leaf, full
    return leaves


def entries(leaves: dict[str, Any], what: str) -> dict[str, Entry]:
    """What a checkpoint says of each leaf.

    Raises:
      CheckpointError: for a leaf that a checkpoint cannot hold.
    """
    return {path: _entry(path, leaf, what) for path, leaf in leaves.items()}


def _entry(path: str, leaf: Any, what: str) -> Entry:
    if type(leaf) in _SCALARS:
        return Entry(type(leaf).__name__, _SCALARS[type(leaf)], ())
    dtype, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", None)
    if dtype is not None and shape is not None and not isinstance(leaf, jax.core.Tracer):
        shape = tuple(shape)
        if jnp.issubdtype(dtype, jax.dtypes.prng_key):
            impl = _algorithm(dtype)
            if impl is not None:
                return Entry("key", "uint32", shape, impl)
        elif not jnp.issubdtype(dtype, jax.dtypes.extended) and np.dtype(dtype).name in DTYPES:
            return Entry("array", np.dtype(dtype).name, shape)
    raise CheckpointError(
        f"a checkpoint cannot hold {path!r} of {what}",
        expected="arrays of numbers, typed keys, Python numbers",
        got=f"a traced {format_short(leaf)}"
        if isinstance(leaf, jax.core.Tracer)
        else format_short(leaf),
        hint="save outside jax.jit" if isinstance(leaf, jax.core.Tracer) else None,
    )


@functools.cache
def _algorithm(dtype: Any) -> str | None:
    for impl in KEYS:
        if jax.eval_shape(lambda impl=impl: jax.random.key(0, impl=impl)).dtype == dtype:
            return impl
    return None


def to_host(leaves: dict[str, Any], what: str, *, copy: bool) -> dict[str, np.ndarray]:
    """The bytes of every leaf, as uint8 arrays of one axis.

    Args:
      leaves: as ``named`` gives them.
      what: they are, for the message.
      copy: False allows views of the arrays' own memory, which the next step may be given.

    Raises:
      CheckpointError: for an int beyond 64 bits, a deleted array, one that other processes hold.
    """
    arrays = {path: _numbers(path, leaf, what) for path, leaf in leaves.items()}
    for leaf in arrays.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()
    return {path: _bytes(leaf, copy) for path, leaf in arrays.items()}


def _numbers(path: str, leaf: Any, what: str) -> Any:
    if type(leaf) in _SCALARS:
        try:
            return np.array(leaf, _SCALARS[type(leaf)])
        except OverflowError:
            raise CheckpointError(
                f"{path!r} of {what} is an int that does not fit in 64 bits", got=format_short(leaf)
            ) from None
    if not isinstance(leaf, jax.Array):
        if isinstance(leaf, np.ndarray | np.generic):
            return np.asarray(leaf)
        raise CheckpointError(f"{path!r} of {what} is no array", got=format_short(leaf))
    if leaf.is_deleted():
        raise CheckpointError(
            f"the memory of {path!r} of {what} was given away",
            got=f"{format_short(leaf)}, deleted",
            hint="save the run that the step gave back, not the one donated to it",
        )
    if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        raise CheckpointError(
            f"{path!r} of {what} is spread over several processes",
            hint="jax.experimental.multihost_utils.process_allgather",
        )
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


def _bytes(leaf: Any, copy: bool) -> np.ndarray:
    array = np.asarray(leaf)
    array = np.asarray(array, DTYPES[array.dtype.name], order="C")
    if copy and _is_view(leaf) and np.may_share_memory(array, np.asarray(leaf)):
        array = array.copy()
    return array.reshape(-1).view(np.uint8)


def _is_view(leaf: Any) -> bool:
    """Whether numpy's view of a leaf is the leaf's own memory, and not a copy on the host."""
    if not isinstance(leaf, jax.Array):
        return True
    on_host = {device.platform for device in leaf.devices()} == {"cpu"}
    return on_host or leaf.sharding.memory_kind != "device"


def from_bytes(entry: Entry, data: np.ndarray) -> np.ndarray:
    """The array of an entry; keys as the numbers they are."""
    shape = entry.stored[1] if entry.kind == "key" else entry.shape
    return data.view(DTYPES[entry.dtype]).reshape(shape)


def placed(template: Any, entry: Entry, array: np.ndarray) -> Any:
    """The array as the template has it: on its devices, a numpy array, or a number of Python.

    Raises:
      CheckpointError: for a dtype that JAX has only with 64 bits enabled.
    """
    if entry.kind in SCALARS:
        return array.item()
    if isinstance(template, np.generic):
        return array[()]
    if isinstance(template, np.ndarray):
        return array
    leaf: Any = array
    if entry.kind == "key":
        leaf = jax.random.wrap_key_data(jnp.asarray(array), impl=entry.impl)
    result = jax.device_put(leaf, _devices(template))
    if entry.kind == "array" and result.dtype != array.dtype:
        raise CheckpointError(
            f"JAX has no {array.dtype} now",
            got=f"{array.dtype} in the checkpoint and in the template",
            hint='jax.config.update("jax_enable_x64", True), or a numpy array in the template',
        )
    return result


def _devices(template: Any) -> Any:
    # An uncommitted template stays one, so that a compiled step is not compiled again.
    sharding = getattr(template, "sharding", None) if getattr(template, "committed", True) else None
    # What `jax.eval_shape` gives of a sharded array names no devices.
    abstract = isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh)
    return None if abstract else sharding


def is_concrete(leaf: Any) -> bool:
    """Whether a leaf of a template has values to keep."""
    if isinstance(leaf, jax.Array):
        return not leaf.is_deleted()
    return type(leaf) in _SCALARS or isinstance(leaf, np.ndarray | np.generic)


def in_file_order(leaves: dict[str, Entry]) -> Iterator[str]:
    """Wide elements first, so that each array begins at a multiple of its element's size."""
    yield from sorted(leaves, key=lambda path: -DTYPES[leaves[path].dtype].itemsize)
