"""Saving a tree: it is checked and copied to the host, and all processes agree on what they save.

How to read this file: ``snapshot`` makes what a process writes. ``begin`` is what the processes do
together on the main thread before ``Writing`` writes, on any thread. ``save_checkpoint`` does one
after the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base import arguments
from ..base.errors import CheckpointError, public_api
from ..base.specs import format_short
from ..base.types import PyTree
from . import manifest
from .atomic import new_token
from .formats.base import find
from .group import Group
from .manifest import Manifest
from .transfer import own_parts
from .tree import leaf_specs, named_leaves
from .writing import Snapshot, Writing


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
    complete checkpoint, whatever fails in between. The processes of ``jax.distributed`` call it
    together, and each writes its own shards.

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
      ProcessError: if other processes save another tree or step, or do not come in time.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import checkpoint
    >>> folder = tempfile.mkdtemp()
    >>> path = checkpoint.save_checkpoint(folder, {"kernel": jnp.ones(3)}, step=400)
    >>> path.name, sorted(file.name for file in path.iterdir())
    ('step_00000400', ['arrays.safetensors', 'manifest.json'])
    >>> checkpoint.read_arrays(path)
    {'kernel': array([1., 1., 1.], dtype=float32)}
    """
    group, where = Group(), f"saving step {format_short(step)}"

    def take() -> Snapshot:
        return snapshot(
            tree, step, position, metrics, history, extra, model, format, group, copy=False
        )

    writing = begin(where, Path(folder), group, take)
    return Path(group.together(where, lambda: str(writing.run()))[group.index])


def begin(where: str, folder: Path, group: Group, take: Callable[[], Snapshot]) -> Writing:
    """What processes do together, on the main thread of each, before they write.

    Args:
      where: for the error of a process that does not come.
      folder: where the checkpoint goes.
      group: the processes.
      take: makes what this one has to write.

    Raises:
      CheckpointError: on all of them, where one has nothing that can be saved, or the folder cannot
        be written.
      ProcessError: on all of them, where they save different trees or steps.
    """
    writing: Writing | None = None
    facts: dict[str, str] = {}

    def prepare() -> Any:
        nonlocal writing, facts
        shot = take()
        writing = Writing(folder, shot, group)
        if group.count == 1:
            return None
        facts = _facts(shot)
        token = new_token()
        # Here, and not on the thread: if it cannot be made, the others need not wait for it.
        if group.index == 0:
            writing.open(token)
        return {"token": token, "facts": hashlib.sha256(json.dumps(facts).encode()).hexdigest()}

    try:
        given = group.together(where, prepare)
        assert writing is not None
        join = writing.join
        if group.count > 1:
            if any(each["facts"] != given[0]["facts"] for each in given):
                group.agree(where, facts)
            # Whoever does not see it from now on knows that it was given up.
            group.together(where, lambda: join(given[0]["token"]))
    except BaseException:
        if writing is not None:
            writing.abandon()
        raise
    return writing


def _facts(shot: Snapshot) -> dict[str, str]:
    """What has to be the same on all processes."""
    content = shot.manifest
    leaves = {f"{path!r} of the tree": str(leaf) for path, leaf in content.leaves.items()}
    return {"the step": str(content.step), "the format": content.format, **leaves}


def snapshot(
    tree: PyTree,
    step: int,
    position: object,
    metrics: Mapping[str, object] | None,
    history: Sequence[object],
    extra: Mapping[str, object] | None,
    model: object,
    format: str,
    group: Group,
    *,
    copy: bool,
) -> Snapshot:
    """What this process of a group has to write, checked and on the host.

    With ``copy`` it shares no memory with the tree.
    """
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
        parts={},
        format=find(format).name,
    )
    return Snapshot(content, own_parts(leaves, specs, "the tree", group, copy=copy))


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
