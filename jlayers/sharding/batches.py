"""Batches on a mesh: how each of their arrays is split, and the arrays put there."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ..base import processes
from ..base.errors import LayerError
from ..base.specs import path_text
from ..base.types import PyTree

T = TypeVar("T")
AnyMesh: TypeAlias = jax.sharding.Mesh | jax.sharding.AbstractMesh


def batch_shardings(
    mesh: AnyMesh, spec: PartitionSpec, tree: PyTree, *, stacked: int = 0, uneven: bool = False
) -> PyTree:
    """The tree with a ``NamedSharding`` for each array of a batch.

    Args:
      mesh, spec: how the first axes of each array are split.
      tree: arrays or specs.
      stacked: axes in front that are whole, such as the one of ``steps=``.
      uneven: whether an array that cannot be divided evenly is whole on each device.

    Raises:
      LayerError: for such an array otherwise.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        entries = tuple(spec)[: max(len(shape) - stacked, 0)]
        for size, entry in zip(shape[stacked:], entries, strict=False):
            parts = parts_of(mesh, entry)
            if size % parts and uneven:
                return NamedSharding(mesh, PartitionSpec())
            if size % parts:
                raise LayerError(
                    f"the batch cannot be divided over the mesh{_at(path_text(path))}",
                    expected=f"a multiple of {parts}, the devices along {entry!r}",
                    got=f"an axis of {size} in the shape {shape}",
                    hint='a batch size that they divide, and Batches(..., last="drop" or "pad")',
                )
        return NamedSharding(mesh, PartitionSpec(*(None,) * stacked, *entries))

    return jax.tree.map_with_path(one, tree)


def put_batch(
    mesh: AnyMesh, spec: PartitionSpec, batch: T, *, stacked: int = 0, uneven: bool = False
) -> T:
    """The arrays of a batch on the devices of a mesh; see ``batch_shardings``.

    Where there are several processes, each of them has the whole batch and puts the part of its
    own devices there.
    """
    return put(batch, batch_shardings(mesh, spec, batch, stacked=stacked, uneven=uneven))


def put(tree: T, places: PyTree) -> T:
    """``jax.device_put``, also onto devices of other processes, which put their own part there.

    Args:
      tree: arrays; every process has the same ones, or arrays that lie on all of them already.
      places: a ``NamedSharding`` for each, or a prefix of such a tree.
    """
    if processes.count() == 1:
        return jax.device_put(tree, places)  # type: ignore[no-any-return]
    places = jax.tree.broadcast(places, tree)
    return jax.tree.map(_own_part, tree, places)  # type: ignore[no-any-return]


def _own_part(leaf: Any, place: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array):
        if not leaf.is_fully_addressable:
            return leaf if leaf.sharding == place else _moved(leaf, place)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = _own_part(jax.random.key_data(leaf), place)
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))  # type: ignore[no-any-return]
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, place, lambda index: values[index])


def _moved(leaf: jax.Array, place: NamedSharding) -> jax.Array:
    # device_put refuses arrays that other processes have a part of.
    moved: jax.Array = jax.jit(lambda array: array, out_shardings=place)(leaf)
    return moved


def fetched(tree: T) -> T:
    """What lies on a mesh as whole arrays, on the default device of each process."""

    def one(leaf: Any) -> Any:
        if not isinstance(getattr(leaf, "sharding", None), NamedSharding):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = one(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
        if leaf.is_fully_addressable:
            return jnp.asarray(np.asarray(leaf))
        return jnp.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    from jax.experimental import multihost_utils

    return jax.tree.map(one, tree)  # type: ignore[no-any-return]


def size_of(tree: PyTree) -> int:
    """Bytes of all arrays, whichever devices have them."""
    return sum(
        math.prod(np.shape(leaf)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
    )


def rows_here(mesh: AnyMesh, spec: PartitionSpec, size: int) -> np.ndarray:
    """The places of a batch of this size that lie on devices of this process, in order."""
    rows = PartitionSpec(*tuple(spec)[:1])
    place: NamedSharding = batch_shardings(mesh, rows, np.broadcast_to(0, (size,)))
    held = np.zeros(size, bool)
    for index in place.addressable_devices_indices_map((size,)).values():
        held[index] = True
    return np.flatnonzero(held)


def put_rows(mesh: AnyMesh, spec: PartitionSpec, batch: T, *, stacked: int = 0) -> T:
    """The batch on the mesh whose arrays here have the rows of ``rows_here`` alone."""
    parts = parts_of(mesh, next(iter(spec))) if spec else 1
    held = len(rows_here(mesh, spec, parts))

    def one(leaf: np.ndarray) -> jax.Array:
        shape = list(leaf.shape)
        shape[stacked] = shape[stacked] * parts // held
        whole = jax.ShapeDtypeStruct(tuple(shape), leaf.dtype)
        place = batch_shardings(mesh, spec, whole, stacked=stacked)
        made: jax.Array = jax.make_array_from_process_local_data(place, leaf, whole.shape)
        return made

    return jax.tree.map(one, batch)  # type: ignore[no-any-return]


def parts_of(mesh: AnyMesh, entry: Any) -> int:
    """Into how many parts an entry of a spec divides an axis."""
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    return math.prod(mesh.shape[name] for name in names)


def _at(name: str) -> str:
    return f", at {name!r}" if name else ""
