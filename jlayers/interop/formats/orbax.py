"""Orbax's checkpoints: folders of zarr arrays or of an OCDBT store, read by orbax itself."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from ...base.errors import InteropError
from .base import NUMPY_DTYPES, Arrays, Format, Template, Writer, check_like, nested, register
from .hdf5 import damage

_METADATA = "_METADATA"
_MOST_METADATA = 1 << 28
# Compressed zeros take no room, so that only a size beyond all reason is refused.
_FLOOR, _MOST_INFLATION = 1 << 26, 1000


def _read(path: Path) -> Arrays:
    if (path / _METADATA).is_file():
        return _read_item(path)
    items = [each for each in sorted(path.iterdir()) if (each / _METADATA).is_file()]
    if not items:
        steps = sorted(each.name for each in path.iterdir() if each.is_dir())
        raise InteropError(
            f"{path} has no {_METADATA}, nor has a folder in it",
            got=", ".join(steps)[:500] or "no folders",
            hint="read one step's folder; of a checkpoint older than _METADATA, by orbax",
        )
    if len(items) == 1:
        return _read_item(items[0])
    return {f"{item.name}/{name}": a for item in items for name, a in _read_item(item).items()}


class _Opened(NamedTuple):
    """A checkpoint whose metadata was read: a leaf of it by its place, and the tree of these."""

    orbax: Any
    checkpointer: Any
    leaves: list[tuple[Any, Any]]
    treedef: Any

    def restore(self, item: list[Any] | None, restore_args: list[Any], path: Path) -> Any:
        unflatten = functools.partial(jax.tree.unflatten, self.treedef)
        args = self.orbax.args.PyTreeRestore(
            item=None if item is None else unflatten(item), restore_args=unflatten(restore_args)
        )
        return self.checkpointer.restore(path.absolute(), args=args)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[_Opened]:
    orbax = _import_orbax(str(path))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with damage(str(path)), closing(orbax.PyTreeCheckpointer()) as checkpointer:
        metadata = checkpointer.metadata(path.absolute())
        tree = getattr(metadata, "item_metadata", metadata)
        tree = getattr(tree, "tree", tree)
        leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
        promised = 0
        for place, leaf in leaves:
            shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
            if shape is not None and dtype is not None:
                promised += math.prod(shape) * np.dtype(dtype).itemsize
            if promised > max(_FLOOR, _MOST_INFLATION * size):
                raise InteropError(
                    f"{path}, entry {_join(place)!r} is damaged",
                    got=f"shape {shape}, of {promised} bytes in all",
                    expected=f"what {size} bytes of files can hold",
                )
        yield _Opened(orbax, checkpointer, leaves, treedef)


def _read_item(path: Path) -> dict[str, np.ndarray]:
    with _open(path) as opened:
        names = _names(path)
        # Texts have no shape, and stay what they are.
        kinds = [
            opened.orbax.RestoreArgs(restore_type=np.ndarray if hasattr(leaf, "shape") else None)
            for _, leaf in opened.leaves
        ]
        restored = opened.restore(None, kinds, path)
        found = {
            _join(place): np.asarray(leaf)
            for place, leaf in jax.tree_util.tree_flatten_with_path(restored)[0]
            if isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex)
        }
    order = {name: i for i, name in enumerate(names)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _read_onto(path: Path, like: Template) -> dict[str, jax.Array]:
    items = [path] if (path / _METADATA).is_file() else sorted(path.glob(f"*/{_METADATA}"))
    if len(items) != 1:
        raise InteropError(f"{path} must be the folder of one item", got=f"{len(items)} of them")
    item = items[0] if items[0] == path else items[0].parent
    with _open(item) as opened:
        known = {_join(place): leaf for place, leaf in opened.leaves}
        for name, wanted in like.items():
            check_like(item, name, wanted, known.get(name))
        skipped, orbax = opened.orbax.PLACEHOLDER, opened.orbax
        # What is not asked for is not read.
        targets = [like.get(name, skipped) for name in known]
        arguments = [
            orbax.RestoreArgs()
            if spec is skipped
            else orbax.ArrayRestoreArgs(
                sharding=spec.sharding, global_shape=spec.shape, dtype=spec.dtype
            )
            for spec in targets
        ]
        found = opened.restore(targets, arguments, item)
        arrays = dict(zip(known, jax.tree.leaves(found), strict=True))
    return {name: arrays[name] for name in like}


def _import_orbax(place: str) -> Any:
    try:
        import orbax.checkpoint as orbax
    except ImportError:
        raise InteropError(
            f"{place} needs orbax-checkpoint, which is not installed",
            hint="pip install 'jlayers[interop]'",
        ) from None
    return orbax


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    orbax = _import_orbax("a folder of orbax")
    with closing(orbax.PyTreeCheckpointer()) as checkpointer:
        # orbax makes the folder itself, in place of the empty one.
        checkpointer.save(path.absolute(), nested(arrays), force=True)


def _names(path: Path) -> list[str]:
    """The names in the order in which they were saved: JAX's trees sort them."""
    file = path / _METADATA
    if file.stat().st_size > _MOST_METADATA:
        raise InteropError(f"{file} is too large", got=f"{file.stat().st_size} bytes")
    tree = json.loads(file.read_bytes()).get("tree_metadata", {})
    return ["/".join(str(key["key"]) for key in entry["key_metadata"]) for entry in tree.values()]


def _join(place: tuple[Any, ...]) -> str:
    return "/".join(
        str(next(getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind)))
        for key in place
    )


def _is_checkpoint(path: Path, start: bytes) -> bool:
    marks = (_METADATA, "_CHECKPOINT_METADATA", "manifest.ocdbt")
    return path.is_dir() and any((path / mark).is_file() for mark in marks)


_WRITTEN = (*NUMPY_DTYPES, np.dtype(ml_dtypes.bfloat16))
register(
    Format(
        "orbax",
        _is_checkpoint,
        _read,
        extra="interop",
        writer=Writer(_write, (), _WRITTEN, folder=True, sharded=True),
        library="flax",
        read_onto=_read_onto,
    )
)
