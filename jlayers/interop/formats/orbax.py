"""Orbax's checkpoints: folders of zarr arrays or of an OCDBT store, read by orbax itself."""

from __future__ import annotations

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...base.errors import InteropError
from .base import NUMPY_DTYPES, Arrays, Format, Writer, nested, register
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


def _read_item(path: Path) -> dict[str, np.ndarray]:
    import jax

    orbax = _import_orbax(str(path))
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    with damage(str(path)), closing(orbax.PyTreeCheckpointer()) as checkpointer:
        names = _names(path)
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
        # Texts have no shape, and stay what they are.
        kinds = [
            orbax.RestoreArgs(restore_type=np.ndarray if hasattr(leaf, "shape") else None)
            for _, leaf in leaves
        ]
        restored = checkpointer.restore(
            path.absolute(),
            args=orbax.args.PyTreeRestore(
                restore_args=jax.tree_util.tree_unflatten(treedef, kinds)
            ),
        )
        found = {
            _join(place): np.asarray(leaf)
            for place, leaf in jax.tree_util.tree_flatten_with_path(restored)[0]
            if isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex)
        }
    order = {name: i for i, name in enumerate(names)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def _import_orbax(place: str) -> Any:
    try:
        import orbax.checkpoint as orbax
    except ImportError:
        raise InteropError(
            f"{place} needs orbax-checkpoint, which is not installed",
            hint="pip install 'jlayers[interop]'",
        ) from None
    return orbax


def _write(path: Path, arrays: Arrays) -> None:
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
        writer=Writer(_write, (), _WRITTEN, folder=True),
        library="flax",
    )
)
