"""Values of leaves: from devices to arrays for a file, and back.

How to read this file: saving goes through ``to_host`` or, where several processes may save,
``own_parts``; restoring through ``from_file``, which undoes ``LeafSpec.stored``, ``needed``, which
says what the devices of this process want of an array, and ``place_like``, which brings it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ..base.errors import CheckpointError
from ..base.specs import format_short
from .formats.base import CorruptFileError
from .group import Group
from .parts import Index, index_of, shape_of, whole
from .tree import DTYPES, PYTHON, SCALARS, LeafSpec

K = TypeVar("K")


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
    return _copied(arrays, specs, copy)


def own_parts(
    leaves: dict[str, object], specs: dict[str, LeafSpec], what: str, group: Group, *, copy: bool
) -> dict[tuple[str, Index], np.ndarray]:
    """What this process has to store, by path and place: all leaves, if there is no other one.

    Of an array over devices of several processes it is the first copy of each of its parts, where
    a device of this process holds that. Everything else is stored by the first process.

    Args:
      leaves, specs, what, copy: as for ``to_host``.
      group: the processes that save together.

    Raises:
      CheckpointError: as ``to_host``, and for an array on devices of a later process alone.
    """
    arrays = {
        (path, index): array
        for path, leaf in leaves.items()
        for index, array in _parts_of(path, leaf, specs[path], what, group).items()
    }
    return _copied(
        arrays, {key: specs[key[0]]._replace(shape=shape_of(key[1])) for key in arrays}, copy
    )


def _parts_of(
    path: str, leaf: object, spec: LeafSpec, what: str, group: Group
) -> dict[Index, np.ndarray | jax.Array]:
    owners = frozenset([group.index])
    if group.count > 1 and isinstance(leaf, jax.Array):
        _check_alive(path, leaf, what)
        owners = group.owners(leaf.sharding)
    if owners == {group.index}:
        array = _as_array(path, leaf, what)
        return {whole(spec.shape): array} if group.index == 0 else {}
    # The one that has it would take it for an array of its own, as each has of the step's number.
    if len(owners) == 1 and 0 not in owners:
        raise CheckpointError(
            f"{path!r} of {what} is on devices of process {min(owners)} alone",
            expected="arrays over devices of several processes, or values that each of them has",
        )
    return {
        index_of(shard.index, spec.shape): _numbers(shard.data)
        for shard in leaf.addressable_shards  # type: ignore[attr-defined]
        if shard.replica_id == 0 and group.owner(shard.device) == group.index
    }


def _copied(
    arrays: Mapping[K, np.ndarray | jax.Array], specs: Mapping[K, LeafSpec], copy: bool
) -> dict[K, np.ndarray]:
    for leaf in arrays.values():
        if isinstance(leaf, jax.Array):
            # All copies are started before the first is waited for.
            leaf.copy_to_host_async()
    return {key: _stored(leaf, specs[key], copy) for key, leaf in arrays.items()}


def _as_array(path: str, leaf: object, what: str) -> np.ndarray | jax.Array:
    # The exact types: a NumPy float64 is a Python float, too.
    if isinstance(leaf, bool | int | float | complex) and type(leaf) in PYTHON:
        try:
            return np.array(leaf, PYTHON[type(leaf)])
        except OverflowError:
            raise CheckpointError(
                f"{path!r} of {what} is an int that does not fit in 64 bits", got=format_short(leaf)
            ) from None
    if isinstance(leaf, np.ndarray | np.generic):
        return np.asarray(leaf)
    if not isinstance(leaf, jax.Array):
        raise CheckpointError(f"{path!r} of {what} must be an array", got=format_short(leaf))
    _check_alive(path, leaf, what)
    if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        raise CheckpointError(
            f"{path!r} of {what} is sharded over several processes",
            hint="jax.experimental.multihost_utils.process_allgather",
        )
    return _numbers(leaf)


def _check_alive(path: str, leaf: object, what: str) -> None:
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        raise CheckpointError(
            f"the memory of {path!r} of {what} was donated",
            got=f"{format_short(leaf)}, deleted",
            hint="save the state that the step returned, not the one donated to it",
        )


def _numbers(leaf: jax.Array) -> jax.Array:
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


def needed(template: object, spec: LeafSpec) -> list[Index]:
    """The parts of an array that this process needs to place it as the template has it."""
    sharding = _sharding_of(template)
    if sharding is None:
        return [whole(spec.shape)]
    places = sharding.addressable_devices_indices_map(spec.shape).values()
    return list(dict.fromkeys(index_of(place or (), spec.shape) for place in places))


def place_like(template: object, spec: LeafSpec, parts: Mapping[Index, np.ndarray]) -> object:
    """An array as the template has it: on its devices, in NumPy, or a Python number.

    Args:
      template: of the leaf.
      spec: of the leaf.
      parts: what ``needed`` says.

    Raises:
      CheckpointError: for a dtype that JAX has only with 64 bits enabled.
    """
    sharding = _sharding_of(template)
    if sharding is None:
        array = parts[whole(spec.shape)]
        if spec.kind in SCALARS:
            return array.item()
        # A NumPy scalar is restored as one, not as an array without axes.
        if isinstance(template, np.generic):
            return array[()]
        if isinstance(template, np.ndarray):
            return array
        result = jax.device_put(_leaf_of(spec, array), None)
    else:
        # By parts, as no process has devices of the others to put the whole on.
        result = jax.make_array_from_callback(
            spec.shape,
            sharding,
            lambda place: _leaf_of(spec, parts[index_of(place or (), spec.shape)]),
            dtype=None if parts else template.dtype,  # type: ignore[attr-defined]
        )
    if spec.kind == "array" and result.dtype != DTYPES[spec.dtype]:
        raise CheckpointError(
            f"{spec.dtype} is not enabled in JAX",
            got=f"{spec.dtype} in the checkpoint and in the template",
            hint='jax.config.update("jax_enable_x64", True), or a NumPy array in the template',
        )
    return result


def _leaf_of(spec: LeafSpec, array: np.ndarray) -> np.ndarray | jax.Array:
    if spec.kind != "key":
        return array
    keys: jax.Array = jax.random.wrap_key_data(jax.device_put(array), impl=spec.impl)
    return keys


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
    return type(leaf) in PYTHON or isinstance(leaf, np.ndarray | np.generic)
