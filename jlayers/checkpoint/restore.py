"""Reading a checkpoint: strictly, into a tree like the one that is wanted, or without one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..base.errors import CheckpointError, public_api
from ..base.specs import PyTree, format_short
from . import manifest
from . import tree as leaves
from .formats import safetensors
from .formats.safetensors import DamagedFileError
from .manifest import Manifest
from .plan import RestorePlan, planned
from .save import ARRAYS, MANIFEST


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is not what was written, or cannot be read."""

    __module__ = "jlayers.training"


class Restored(NamedTuple):
    """What was read from a checkpoint.

    Attributes:
      tree: as the template, with the checkpoint's numbers.
      step: the number of steps taken.
      position: where the data stood.
      metrics: by name.
      history: what the loop told so far.
      extra: what the user added.
      plan: what was restored, and what was not.
      path: the folder.
    """

    tree: PyTree
    step: int
    position: Any
    metrics: dict[str, float]
    history: list[Any]
    extra: dict[str, Any]
    plan: RestorePlan
    path: Path


@public_api
def read_checkpoint(
    path: str | os.PathLike[str], like: PyTree, *, allow: Sequence[str] = ()
) -> Restored:
    """Reads a checkpoint into a tree like ``like``.

    Args:
      path: the checkpoint's folder.
      like: the tree to restore, of arrays or ``jax.ShapeDtypeStruct``: structure, shapes, dtypes
        and devices come from here. numpy arrays become numpy arrays.
      allow: patterns such as ``"params/head/**"``. What does not fit at their paths keeps
        ``like``'s own value, and is dropped where ``like`` has nothing.

    Raises:
      CheckpointError: where a path of ``like`` or of the checkpoint does not fit, with all of them.
      DamagedCheckpointError: where the checkpoint is not what was written.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import training
    >>> run = {"kernel": jnp.ones(3), "bias": jnp.zeros(())}
    >>> path = training.save_checkpoint(tempfile.mkdtemp(), run, step=400, position=[2, 0])
    >>> restored = training.read_checkpoint(path, run)
    >>> restored.step, restored.position, restored.tree["kernel"]
    (400, [2, 0], Array([1., 1., 1.], dtype=float32))
    """
    path = Path(path)
    with _damage_told(path):
        told = manifest.read(path / MANIFEST)
    templates = leaves.named(like, "the template")
    plan = _plan(path, told, templates, allow)
    plan.check()
    values = {name: templates[name] for name in plan.kept}
    for name, value in values.items():
        if not leaves.is_concrete(value):
            raise CheckpointError(
                f"the template has no value to keep at {name!r}", got=format_short(value)
            )
    wanted = set(plan.matched)
    with _damage_told(path):
        for name, data in safetensors.read(path / ARRAYS, told.leaves, told.sums, wanted):
            array = leaves.from_bytes(told.leaves[name], data)
            values[name] = leaves.placed(templates[name], told.leaves[name], array)
    tree = jax.tree.unflatten(jax.tree.structure(like), [values[name] for name in templates])
    return Restored(
        tree, told.step, told.position, told.metrics, told.history, told.extra, plan, path
    )


@public_api
def restore_plan(
    path: str | os.PathLike[str], like: PyTree, *, allow: Sequence[str] = ()
) -> RestorePlan:
    """What ``read_checkpoint`` would do; no array is read.

    Args:
      path, like, allow: as for ``read_checkpoint``.

    Raises:
      CheckpointError: for a pattern that fits no path, and for a damaged manifest.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import training
    >>> path = training.save_checkpoint(tempfile.mkdtemp(), {"kernel": jnp.ones(3)}, step=400)
    >>> print(training.restore_plan(path, {"kernel": jnp.ones(4)}))
    step_00000400: 0 of 1 paths match; 0 missing, 0 extra, 1 wrong shape, 0 wrong dtype
      wrong shape  'kernel'  expected float32[4], the checkpoint has float32[3]
    """
    path = Path(path)
    with _damage_told(path):
        told = manifest.read(path / MANIFEST)
    return _plan(path, told, leaves.named(like, "the template"), allow)


def _plan(
    path: Path, told: Manifest, templates: dict[str, Any], allow: Sequence[str]
) -> RestorePlan:
    expected = leaves.entries(templates, "the template")
    return planned(path.name, expected, told.leaves, allow)


@public_api
def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by path, without a template.

    Keys come as the uint32 numbers they are, Python numbers as arrays without axes.

    Raises:
      DamagedCheckpointError: where the checkpoint is not what was written.
    """
    path = Path(path)
    with _damage_told(path):
        told = manifest.read(path / MANIFEST)
        found = safetensors.read(path / ARRAYS, told.leaves, told.sums, told.leaves)
        arrays = {name: leaves.from_bytes(told.leaves[name], data) for name, data in found}
    return {name: arrays[name] for name in told.leaves}


@public_api
def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What a checkpoint says of itself; no array is read.

    Raises:
      DamagedCheckpointError: where the manifest is not what was written.
    """
    with _damage_told(Path(path)):
        return manifest.read(Path(path) / MANIFEST)


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except DamagedFileError as error:
        raise DamagedCheckpointError(f"the checkpoint {path} is damaged: {error}") from None
    except OSError as error:
        raise DamagedCheckpointError(
            f"the checkpoint {path} cannot be read: {error.strerror}", got=str(error)
        ) from error
