"""Reading a checkpoint: strictly, into a tree like the one that is wanted, or without one.

How to read this file: ``read_checkpoint`` compares first (``_plan``), and reads the arrays
(``reading.py``) only if nothing is refused. ``reraise_corruption`` is around all that opens a file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..base.errors import CheckpointError, public_api
from ..base.specs import format_short
from ..base.types import PyTree
from . import manifest
from .formats.base import CorruptFileError
from .group import CorruptCheckpointError
from .layout import MANIFEST, directory_name, has_arrays, hint_for, is_shortage, steps_in
from .manifest import Manifest
from .parts import whole
from .plan import RestorePlan, make_plan
from .reading import read_parts
from .transfer import is_concrete, needed, place_like
from .tree import leaf_specs, named_leaves


class Restored(NamedTuple):
    """What was read from a checkpoint.

    Attributes:
      tree: like the template, with the checkpoint's numbers.
      step, position, metrics, history, extra: as in ``Manifest``.
      plan: what was restored, and what was not.
      path: the checkpoint's directory.
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
      path: the checkpoint's directory.
      like: the template, a tree of arrays or ``jax.ShapeDtypeStruct``, which decides structure,
        shapes, dtypes and devices. NumPy arrays are restored as NumPy arrays.
      allow: patterns such as ``"params/head/**"``. Where the checkpoint differs at their paths,
        ``like`` keeps its own value; what ``like`` does not have is dropped.

    Raises:
      CheckpointError: if paths of ``like`` and of the checkpoint differ; it lists all of them. Also
        for a directory that is not a checkpoint.
      CorruptCheckpointError: if the checkpoint is not what was written.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import checkpoint
    >>> state = {"kernel": jnp.ones(3), "bias": jnp.zeros(())}
    >>> path = checkpoint.save_checkpoint(tempfile.mkdtemp(), state, step=400, position=[2, 0])
    >>> restored = checkpoint.read_checkpoint(path, state)
    >>> restored.step, restored.position, restored.tree["kernel"]
    (400, [2, 0], Array([1., 1., 1.], dtype=float32))
    """
    path, templates = Path(path), named_leaves(like, "the template")
    content, plan = _plan(path, templates, allow)
    plan.check()
    # Checked before anything is read: a template may have shapes only.
    values = {name: templates[name] for name in plan.kept}
    for name, value in values.items():
        if not is_concrete(value):
            raise CheckpointError(
                f"the template has no value to keep at {name!r}", got=format_short(value)
            )
    with reraise_corruption(path):
        # Placed one by one, so that the host never holds all arrays at once.
        wanted = {name: needed(templates[name], content.leaves[name]) for name in plan.matched}
        for name, parts in read_parts(path, content, wanted):
            values[name] = place_like(templates[name], content.leaves[name], parts)
    tree = jax.tree.unflatten(jax.tree.structure(like), [values[name] for name in templates])
    # step, position, metrics, history and extra come first in both.
    return Restored(tree, *content[:5], plan, path)


@public_api
def restore_plan(
    path: str | os.PathLike[str], like: PyTree, *, allow: Sequence[str] = ()
) -> RestorePlan:
    """What ``read_checkpoint`` would do; no array is read.

    Args:
      path, like, allow: as for ``read_checkpoint``.

    Raises:
      CheckpointError: for a pattern that matches no path.
      CorruptCheckpointError: if the manifest is not what was written.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import checkpoint
    >>> path = checkpoint.save_checkpoint(tempfile.mkdtemp(), {"kernel": jnp.ones(3)}, step=400)
    >>> print(checkpoint.restore_plan(path, {"kernel": jnp.ones(4)}))
    step_00000400: 0 of 1 paths match; 0 missing, 0 extra, 1 wrong shape, 0 wrong dtype
      wrong shape  'kernel'  expected float32[4], the checkpoint has float32[3]
    """
    return _plan(Path(path), named_leaves(like, "the template"), allow)[1]


def _plan(
    path: Path, templates: dict[str, object], allow: Sequence[str]
) -> tuple[Manifest, RestorePlan]:
    with reraise_corruption(path):
        content = manifest.read(path / MANIFEST)
    expected = leaf_specs(templates, "the template")
    return content, make_plan(path.name, expected, content.leaves, allow)


@public_api
def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by path, without a template.

    Typed keys are returned as their uint32 numbers, Python numbers as arrays without axes.

    Raises:
      CorruptCheckpointError: if the checkpoint is not what was written.

    >>> import tempfile
    >>> from jlayers import checkpoint
    >>> path = checkpoint.save_checkpoint(tempfile.mkdtemp(), {"rate": 0.5}, step=400)
    >>> checkpoint.read_arrays(path)
    {'rate': array(0.5)}
    """
    path = Path(path)
    with reraise_corruption(path):
        content = manifest.read(path / MANIFEST)
        wholes = {name: whole(leaf.shape) for name, leaf in content.leaves.items()}
        wanted = {name: [index] for name, index in wholes.items()}
        found = dict(read_parts(path, content, wanted))
    return {name: found[name][index] for name, index in wholes.items()}


@public_api
def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """What a checkpoint says of itself; no array is read.

    Raises:
      CorruptCheckpointError: if the manifest is not what was written.
    """
    with reraise_corruption(Path(path)):
        return manifest.read(Path(path) / MANIFEST)


@contextlib.contextmanager
def reraise_corruption(path: Path) -> Iterator[None]:
    """Names the checkpoint in the error for a file in it that is corrupt or cannot be read."""
    try:
        yield
    except CorruptFileError as error:
        raise CorruptCheckpointError(f"the checkpoint {path} is corrupt: {error}") from None
    except OSError as error:
        if is_shortage(error):  # of this process: the checkpoint may be good
            raise CheckpointError(
                f"the checkpoint {path} cannot be read: {error.strerror}",
                got=str(error),
                hint=hint_for(error),
            ) from error
        _check_is_checkpoint(path)
        raise CorruptCheckpointError(
            f"the checkpoint {path} cannot be read: {error.strerror}", got=str(error)
        ) from error


def _check_is_checkpoint(path: Path) -> None:
    """Raises for a directory that never was a checkpoint: a folder of them most often."""
    if steps := steps_in(path):
        newest = str(path / directory_name(steps[-1]))
        raise CheckpointError(
            f"{path} is a folder of checkpoints, not one of them",
            expected="the directory of one step",
            got=f"{len(steps)} of them, the newest of step {steps[-1]}",
            hint=f"{newest!r}, or CheckpointManager({str(path)!r}).restore(like)",
        )
    # With an array file it was one, and somebody deleted the manifest: that is damage.
    if path.is_dir() and not (path / MANIFEST).exists() and not has_arrays(path):
        raise CheckpointError(
            f"{path} is not a checkpoint: it has no {MANIFEST}",
            expected=f"a directory that save_checkpoint wrote, such as {directory_name(400)}",
        )
