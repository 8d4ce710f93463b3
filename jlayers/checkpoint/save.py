"""Writing a checkpoint: a safetensors file and a JSON manifest in a folder, whole or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..base import arguments
from ..base.errors import CheckpointError, public_api
from ..base.specs import PyTree, format_short
from . import manifest
from . import tree as leaves
from .atomic import written_whole
from .formats import safetensors as safetensors_file
from .manifest import Manifest

ARRAYS, MANIFEST = "arrays.safetensors", "manifest.json"


class Snapshot(NamedTuple):
    """A checkpoint in the memory of the host, ready to be written."""

    manifest: Manifest
    data: dict[str, np.ndarray]


def folder_name(step: int) -> str:
    """
    >>> folder_name(400)
    'step_00000400'
    """
    return f"step_{step:08d}"


@public_api
def save_checkpoint(
    folder: str | os.PathLike[str],
    tree: PyTree,
    *,
    step: int,
    position: Any = None,
    metrics: Mapping[str, Any] | None = None,
    history: Sequence[Any] = (),
    extra: Mapping[str, Any] | None = None,
    model: Any = None,
) -> Path:
    """Writes a checkpoint, and comes back when it is on the disk.

    It is written under another name and then renamed, so that a folder of this name is a whole
    checkpoint, whatever dies in between.

    Args:
      folder: where the checkpoint's folder ``step_00000400`` goes; one that is there is replaced.
      tree: arrays (of JAX or numpy), typed keys and Python numbers. All come back as they are, to
        the bit, but for weak types, which come back strong.
      step: the number of steps taken.
      position: where the data stands, any JSON.
      metrics: numbers by name.
      history: a list of JSON values.
      extra: a dict of JSON values.
      model: its ``repr`` is kept for people to read.

    Returns:
      The checkpoint's folder.

    Raises:
      CheckpointError: before anything is written, for a leaf that a checkpoint cannot hold and for
        what is no JSON; where the disk is full or the folder cannot be written. What was there
        before is whole then.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import training
    >>> folder = tempfile.mkdtemp()
    >>> path = training.save_checkpoint(folder, {"kernel": jnp.ones(3)}, step=400)
    >>> path.name, sorted(file.name for file in path.iterdir())
    ('step_00000400', ['arrays.safetensors', 'manifest.json'])
    >>> training.read_arrays(path)
    {'kernel': array([1., 1., 1.], dtype=float32)}
    """
    shot = snapshot(
        tree,
        step=step,
        position=position,
        metrics=metrics,
        history=history,
        extra=extra,
        model=model,
        copy=False,
    )
    return write_snapshot(Path(folder), shot)


def snapshot(
    tree: PyTree,
    *,
    step: int,
    position: Any,
    metrics: Mapping[str, Any] | None,
    history: Sequence[Any],
    extra: Mapping[str, Any] | None,
    model: Any,
    copy: bool,
) -> Snapshot:
    """The checkpoint, checked and on the host; with ``copy`` it shares no memory with the tree."""
    found = leaves.named(tree, "the tree")
    told = Manifest(
        step=arguments.integer("step", step, 0),
        position=_own_json("position", position),
        metrics={name: _float(name, value) for name, value in (metrics or {}).items()},
        # Shallow, as it may be long: the thread that writes finds out whether it is JSON.
        history=list(history),
        extra=_own_json("extra", dict(extra or {})),
        model=model if model is None or isinstance(model, str) else repr(model),
        versions=manifest.versions(sys.modules["jlayers"].__version__),
        leaves=leaves.entries(found, "the tree"),
        sums={},
    )
    return Snapshot(told, leaves.to_host(found, "the tree", copy=copy))


def _own_json(what: str, value: Any) -> Any:
    # A copy: the caller may go on to change its own while this one is written.
    return manifest.from_json(manifest.as_json(what, value))


def _float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise CheckpointError(
            f"the metric {name!r} is no number", got=format_short(value)
        ) from None


def write_snapshot(folder: Path, shot: Snapshot) -> Path:
    """Writes a snapshot into ``folder``, whole or not at all."""
    target = folder / folder_name(shot.manifest.step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as half:
            sums = safetensors_file.write(half / ARRAYS, shot.manifest.leaves, shot.data)
            manifest.write(half / MANIFEST, manifest.text_of(shot.manifest._replace(sums=sums)))
    except OSError as error:
        size = sum(data.nbytes for data in shot.data.values())
        raise CheckpointError(
            f"the checkpoint of step {shot.manifest.step} could not be written: {error.strerror}",
            expected=f"room for {size:,} bytes in {folder}",
            got=str(error),
            hint="what was written before is whole; make room, or another folder",
        ) from error
    return target
