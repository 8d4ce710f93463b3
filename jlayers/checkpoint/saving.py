"""Writing a checkpoint: a file of arrays and a JSON manifest, in a directory that is atomic.

How to read this file: ``snapshot`` checks a tree and copies it to the host; ``write_snapshot``
writes that, on any thread. ``save_checkpoint`` does one after the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..base import arguments
from ..base.errors import CheckpointError, public_api
from ..base.specs import format_short
from ..base.types import PyTree
from . import manifest
from .atomic import atomic_directory, sync
from .formats.base import Format, find
from .manifest import Manifest
from .tree import leaf_specs, named_leaves, stored_name, to_host

MANIFEST = "manifest.json"
# As ``directory_name`` makes them. Steps of more than 8 digits have longer names.
_NAME = re.compile(r"step_([0-9]{8,})")


class Snapshot(NamedTuple):
    """A checkpoint in the memory of the host, ready to be written."""

    manifest: Manifest
    arrays: dict[str, np.ndarray]


def directory_name(step: int) -> str:
    """
    >>> directory_name(400)
    'step_00000400'
    """
    return f"step_{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """The steps of all complete checkpoints in a folder, in order; none where there is no folder.

    Raises:
      CheckpointError: if the system cannot list the folder. It may hold checkpoints then.
    """
    names: list[str] = []
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = os.listdir(folder)
    except OSError as error:
        raise CheckpointError(
            f"the folder of checkpoints cannot be read: {error.strerror}",
            got=str(folder),
            hint=hint_for(error),
        ) from error
    steps = [int(match[1]) for match in map(_NAME.fullmatch, names) if match]
    # A directory of another form of the number (more zeros) is not one of ours.
    named = {directory_name(step): step for step in steps}
    return sorted(named[name] for name in named.keys() & set(names) if _is_complete(folder / name))


def _is_complete(directory: Path) -> bool:
    # Every directory of such a name is, unless somebody deleted a file from it.
    try:
        return (directory / MANIFEST).exists() and has_arrays(directory)
    except OSError:
        return True  # whoever reads it is told why it cannot be read


def has_arrays(directory: Path) -> bool:
    """Whether a directory holds a file of arrays, also in a format that is not registered here."""
    try:
        return any(name.startswith("arrays.") for name in os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_shortage(error: OSError) -> bool:
    """Whether the process lacks something for now, which says nothing of the file."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def hint_for(error: OSError) -> str:
    """What to do about an error of the system."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "close files, or raise the limit of open ones (ulimit -n)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space, or use another folder; earlier checkpoints are still complete"
    return "a folder that can be read and written; earlier checkpoints are still complete"


def file_name(format: Format) -> str:
    """The name of the file of arrays in a checkpoint's directory."""
    return f"arrays{format.suffix}"


@public_api
def save_checkpoint(
    folder: str | os.PathLike[str],
    tree: PyTree,
    *,
    step: int,
    position: object = None,
    metrics: Mapping[str, object] | None = None,
    history: Sequence[object] = (),
    extra: Mapping[str, object] | None = None,
    model: object = None,
    format: str = "safetensors",
) -> Path:
    """Writes a checkpoint, and returns when it is on the disk.

    It is written under a temporary name and then renamed, so that a directory of this name is a
    complete checkpoint, whatever fails in between.

    Args:
      folder: where the checkpoint's directory ``step_00000400`` goes; an existing one is replaced.
      tree: arrays (of JAX or NumPy), typed keys and Python numbers. They are restored bit for bit;
        only weak types become strong ones.
      step: the number of steps taken.
      position: the position in the data, any JSON value.
      metrics: numbers by name.
      history: a list of JSON values.
      extra: a dict of JSON values.
      model: its ``repr`` is stored for people to read.
      format: the name of the file format of the arrays.

    Returns:
      The checkpoint's directory.

    Raises:
      CheckpointError: before anything is written, for a leaf that a checkpoint cannot hold and for
        a value that JSON does not have; and if the disk is full or the folder cannot be written. A
        checkpoint that was there before is still complete then.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import checkpoint
    >>> folder = tempfile.mkdtemp()
    >>> path = checkpoint.save_checkpoint(folder, {"kernel": jnp.ones(3)}, step=400)
    >>> path.name, sorted(file.name for file in path.iterdir())
    ('step_00000400', ['arrays.safetensors', 'manifest.json'])
    >>> checkpoint.read_arrays(path)
    {'kernel': array([1., 1., 1.], dtype=float32)}
    """
    shot = snapshot(tree, step, position, metrics, history, extra, model, format, copy=False)
    return write_snapshot(Path(folder), shot)


def snapshot(
    tree: PyTree,
    step: int,
    position: object,
    metrics: Mapping[str, object] | None,
    history: Sequence[object],
    extra: Mapping[str, object] | None,
    model: object,
    format: str,
    *,
    copy: bool,
) -> Snapshot:
    """The checkpoint, checked and on the host; with ``copy`` it shares no memory with the tree."""
    leaves = named_leaves(tree, "the tree")
    specs = leaf_specs(leaves, "the tree")
    content = Manifest(
        step=arguments.integer("step", step, 0),
        position=_json_copy("position", position),
        metrics={name: _as_float(name, value) for name, value in (metrics or {}).items()},
        # A shallow copy, and not checked here, as it may be long: the thread that writes does it.
        history=list(history),
        extra=_json_copy("extra", dict(extra or {})),
        model=model if model is None or isinstance(model, str) else repr(model),
        versions=manifest.versions(sys.modules["jlayers"].__version__),
        leaves=specs,
        checksums={},
        format=find(format).name,
    )
    return Snapshot(content, to_host(leaves, specs, "the tree", copy=copy))


def _json_copy(what: str, value: object) -> Any:
    # The caller may change its own value while this one is being written.
    return manifest.from_json(manifest.as_json(what, value))


def _as_float(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise CheckpointError(
            f"the metric {name!r} must be a number", got=format_short(value)
        ) from None


def write_snapshot(folder: Path, shot: Snapshot) -> Path:
    """Writes a snapshot into ``folder``, atomically."""
    target = folder / directory_name(shot.manifest.step)
    file_format = find(shot.manifest.format)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_replaceable(target)
        with atomic_directory(target) as directory:
            file = directory / file_name(file_format)
            # A pass over the data in between would take as long as writing it.
            with _checksums(shot.arrays) as checksums:
                file_format.write({stored_name(p): array for p, array in shot.arrays.items()}, file)
                sync(file)
            size = file.stat().st_size
            written = shot.manifest._replace(checksums=checksums, size=size)
            manifest.write(directory / MANIFEST, manifest.text_of(written))
    except OSError as error:
        needed = sum(array.nbytes for array in shot.arrays.values())
        raise CheckpointError(
            f"the checkpoint of step {shot.manifest.step} could not be written: {error.strerror}",
            expected=f"{needed:,} bytes of space in {folder}",
            got=str(error),
            hint=hint_for(error),
        ) from error
    return target


def _check_replaceable(target: Path) -> None:
    """Raises for a directory that has a checkpoint's name, and is something else of the user's."""
    ours = (target / MANIFEST).exists() or has_arrays(target)
    if not ours and target.is_dir() and any(target.iterdir()):
        raise CheckpointError(
            f"{target.name} is in the way: a directory that is not a checkpoint",
            got=str(target),
            hint="rename it, or use another folder",
        )


@contextlib.contextmanager
def _checksums(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, int]]:
    """Checksums by name, computed on a thread while the block writes; complete when it ends."""
    result: dict[str, int] = {}

    def compute() -> None:
        result.update((name, checksum(array)) for name, array in arrays.items())

    thread = threading.Thread(target=compute, name="checkpoint-checksums")
    # When Python is exiting, it starts no more threads.
    with contextlib.suppress(RuntimeError):
        thread.start()
    try:
        yield result
    finally:
        compute() if thread.ident is None else thread.join()


# CRC-32 finds what a disk or a transfer does to bytes. It does not protect from intent, which could
# compute any other checksum as well. zlib lets other threads run while it computes.
def checksum(array: np.ndarray) -> int:
    """The CRC-32 of the bytes of a contiguous array."""
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)
