"""Batches on a mesh: how each of their arrays is split, and the arrays put there."""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

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
    places = batch_shardings(mesh, spec, batch, stacked=stacked, uneven=uneven)
    if jax.process_count() == 1:
        return jax.device_put(batch, places)  # type: ignore[no-any-return]
    return jax.tree.map(_own_part, batch, places)  # type: ignore[no-any-return]


def _own_part(leaf: Any, place: NamedSharding) -> jax.Array:
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, place, lambda index: values[index])


def parts_of(mesh: AnyMesh, entry: Any) -> int:
    """Into how many parts an entry of a spec divides an axis."""
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    return math.prod(mesh.shape[name] for name in names)


def _at(name: str) -> str:
    return f", at {name!r}" if name else ""
