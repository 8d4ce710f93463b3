"""A folder of checkpoints, written in the background; the last and the best are kept.

How to read this file: ``save`` copies on the caller's thread and starts ``_write``, which writes
and then prunes the folder. All state is in the folder, except metrics (read once) and which
checkpoints were found corrupt. ``restore`` falls back to earlier ones.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from ..base import arguments
from ..base.errors import CheckpointError, public_api, warn
from ..base.specs import format_short
from ..base.types import PyTree
from .atomic import atomic_remove, clean
from .formats.base import find
from .restore import CorruptCheckpointError, Restored, read_checkpoint, read_manifest
from .saving import MANIFEST, Snapshot, directory_name, snapshot, steps_in, write_snapshot


class CheckpointManager:
    """A folder of checkpoints.

    ``save`` blocks the training for the copy to the host only; a thread writes it. Several
    processes may read the folder and even write to it. What a killed process left half-written is
    removed when the next one starts: a writer holds a lock on its directory until it dies. On a
    file system without locks it is not removed.

    Args:
      folder: where the checkpoints are; it is created.
      keep: the number of last ones to keep, by step; None for all.
      best: the number of best ones to keep beside these.
      metric: the name of the metric that decides which is best. A checkpoint whose metrics lack
        it, or have NaN for it, is never among the best.
      mode: "min" or "max".
      format: the name of the file format of the arrays.

    Raises:
      CheckpointError: if the folder cannot be created, and for an invalid option.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import checkpoint
    >>> with checkpoint.CheckpointManager(tempfile.mkdtemp(), keep=2) as checkpoints:
    ...     for step in (100, 200, 300):
    ...         checkpoints.save(step, {"kernel": jnp.full(3, step)})
    >>> checkpoints.steps()
    [200, 300]
    >>> checkpoints.restore({"kernel": jnp.zeros(3, jnp.int32)}).tree
    {'kernel': Array([300, 300, 300], dtype=int32)}
    """

    @public_api
    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int | None = 3,
        best: int = 0,
        metric: str = "loss",
        mode: str = "min",
        format: str = "safetensors",
    ):
        if mode not in ("min", "max"):
            raise CheckpointError("mode must be 'min' or 'max'", got=format_short(mode))
        self.keep = keep if keep is None else arguments.positive("keep", keep)
        self.best = arguments.integer("best", best, 0)
        self.metric, self.mode = metric, mode
        self.format = find(format).name
        # Read once: pruning would parse all manifests again after every save. With the identity of
        # the manifest, which another process may have replaced.
        self._metrics: dict[int, tuple[object, dict[str, float]]] = {}
        # `save` does not warn of these when training goes back before them.
        self._corrupt: set[int] = set()
        self._thread: threading.Thread | None = None
        # Whether a training ended before its time: what is missing may have come later.
        self._cut_short = False
        # A list of its own, as the finalizer below must not refer to this object.
        self._errors: list[Exception] = []
        # Of what went wrong beside a write that did not fail.
        self._warnings: list[str] = []
        # Steps that could not be removed, and were told of.
        self._stuck: set[int] = set()
        try:
            # A later chdir changes nothing.
            self.folder = Path(os.path.abspath(folder))
            self.folder.mkdir(parents=True, exist_ok=True)
            self._identity = _identity(self.folder)
            clean(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"cannot create the folder for checkpoints: {error.strerror}",
                got=str(folder),
                hint="a folder that can be written",
            ) from error
        # Python waits for threads at exit; the error of the last one would be lost otherwise.
        weakref.finalize(self, _warn_of_errors, self._errors, self._warnings)

    @public_api
    def save(
        self,
        step: int,
        tree: PyTree,
        *,
        position: object = None,
        metrics: Mapping[str, object] | None = None,
        history: Sequence[object] = (),
        extra: Mapping[str, object] | None = None,
        model: object = None,
    ) -> None:
        """Copies the tree to the host, and writes it in the background.

        It waits for the device to compute the tree, and for the previous write to end. The tree
        may be donated as soon as this returns.

        Args:
          step, tree, position, metrics, history, extra, model: as for ``save_checkpoint``.

        Raises:
          CheckpointError: if ``tree`` cannot be saved, and if the previous write failed.
        """
        # One write at a time, so that at most one copy of the tree is in memory.
        self.wait()
        shot = snapshot(
            tree, step, position, metrics, history, extra, model, self.format, copy=True
        )
        later = [s for s in self.steps() if s > shot.manifest.step and s not in self._corrupt]
        if later:
            warn(
                f"saving step {shot.manifest.step} into {self.folder}, where step {later[-1]} "
                "remains the latest checkpoint; use another folder to go back"
            )
        # Not a daemon: a program that ends waits for its last checkpoint.
        self._thread = threading.Thread(target=self._write, args=(shot,), name="checkpoint")
        try:
            self._thread.start()
        except RuntimeError:  # the system has no more threads, or Python is exiting
            self._thread = None
            self._write(shot)

    def _write(self, shot: Snapshot) -> None:
        step = shot.manifest.step
        try:
            self._check_folder(step)
            write_snapshot(self.folder, shot)
        except Exception as error:
            self._errors.append(error)
            return
        self._corrupt.discard(step)
        # What was written is good, whatever happens to older ones: training goes on.
        try:
            self._identity = self._identity or _identity(self.folder)
            self._metrics[step] = _identity(self.path(step) / MANIFEST), shot.manifest.metrics
            self._prune(step)
        except Exception as error:
            self._warnings.append(f"old checkpoints were not removed: {error}")

    def _check_folder(self, step: int) -> None:
        """Says so where the folder is not the one that it was, and forgets what was read there."""
        found = _identity(self.folder)
        if found != self._identity:
            what = "is another one than before" if found else "was renamed or removed"
            self._warnings.append(
                f"the folder {self.folder} {what}; step {step} is written into "
                + ("it" if found else "a new folder of that name")
            )
            self._identity = found
            self._corrupt.clear()

    def _prune(self, just_written: int) -> None:
        if self.keep is None:
            return
        steps = self.steps()
        # When training goes back, the step just written is not among the last ones.
        kept = {just_written, *steps[-self.keep :], *self._best(steps)}
        for step in steps:
            if step not in kept:
                self._remove(step)

    def _remove(self, step: int) -> None:
        try:
            # Another process may have removed it already.
            with contextlib.suppress(FileNotFoundError):
                atomic_remove(self.path(step))
            self._metrics.pop(step, None)
            self._stuck.discard(step)
        except OSError as error:  # tried again with the next save, and told of once
            if step not in self._stuck:
                self._stuck.add(step)
                self._warnings.append(f"{self.path(step)} could not be removed: {error.strerror}")

    def _best(self, steps: list[int]) -> list[int]:
        if not self.best:
            return []
        ranked, unknown = self._ranked(steps)
        # What could not be read may be the best.
        return [*unknown, *ranked[: self.best]]

    def _ranked(self, steps: list[int]) -> tuple[list[int], list[int]]:
        """The steps that have the metric, the best first, and those that cannot be read."""
        sign = 1 if self.mode == "min" else -1
        ranked, unknown = [], []
        for step in steps:
            metrics = self._metrics_of(step)
            if metrics is None:
                unknown.append(step)
            elif not math.isnan(value := metrics.get(self.metric, math.nan)):
                ranked.append((sign * value, -step))
        # Of equal ones the later is better.
        return [-step for _, step in sorted(ranked)], unknown

    def _metrics_of(self, step: int) -> dict[str, float] | None:
        """The metrics of a checkpoint, none of a corrupt one; None where they cannot be read."""
        path = self.path(step)
        identity = _identity(path / MANIFEST)
        known, metrics = self._metrics.get(step, (None, {}))
        if identity is None or identity != known:
            try:
                manifest = read_manifest(path)
                # A checkpoint that was renamed is that of another step.
                metrics = manifest.metrics if manifest.step == step else {}
            except CorruptCheckpointError:
                metrics = {}  # or just removed: not among the best in any case
            except CheckpointError:
                return None
            self._metrics[step] = identity, metrics
        return metrics

    def cut_short(self, early: bool) -> None:
        """Whether the training that used this ended before its time: ``fit`` says so."""
        self._cut_short = early

    @public_api
    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
          CheckpointError: if the last write failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        while self._warnings:
            warn(self._warnings.pop(0))
        if self._errors:
            raise self._errors.pop()

    @public_api
    def close(self) -> None:
        """As ``wait``; warns if no checkpoint has the metric that decides which is best.

        Where the training was ended early, by a signal or an error, there is no such warning.
        """
        self.wait()
        steps = self.steps()
        if self.best and not self._cut_short and steps and not self._best(steps):
            names = sorted({name for step in steps for name in self._metrics_of(step) or {}})
            warn(
                f"no checkpoint in {self.folder} has the metric {self.metric!r}, so none was kept "
                f"as a best one; their metrics: {', '.join(names) or 'none'}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._cut_short = self._cut_short or details[0] is not None
        self.close()

    def __repr__(self) -> str:
        return f"CheckpointManager({str(self.folder)!r}, keep={self.keep}, best={self.best})"

    def path(self, step: int) -> Path:
        """The directory of a step's checkpoint."""
        return self.folder / directory_name(step)

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in order."""
        return steps_in(self.folder)

    def latest(self) -> int | None:
        """The last step that has a complete checkpoint."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step whose checkpoint has the best ``metric``, by ``mode``; None where none has it.

        Of those that are still there: ``best=1`` keeps it. ``restore(like, best_step())`` reads it.
        """
        ranked, _ = self._ranked(self.steps())
        return ranked[0] if ranked else None

    @public_api
    def restore(
        self,
        like: PyTree,
        step: int | None = None,
        *,
        allow: Sequence[str] = (),
        fallback: bool = False,
    ) -> Restored:
        """Reads a checkpoint into a tree like ``like``.

        Args:
          like, allow: as for ``read_checkpoint``.
          step: which; the latest by default.
          fallback: if it is corrupt, warn and read the last good one before it.

        Raises:
          CheckpointError: if there is no such checkpoint, and as ``read_checkpoint``.
          CorruptCheckpointError: if it is corrupt; the hint names the last good one.
        """
        self.wait()
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise CheckpointError(
                f"{which} in {self.folder}",
                expected=f"one of the steps {', '.join(map(str, steps))}" if steps else None,
            )
        wanted = steps[-1] if step is None else step
        try:
            return self._read(wanted, like, allow)
        except CorruptCheckpointError as error:
            if step is None and wanted not in self.steps():
                # Another process has just removed it, since it has written a later one.
                return self.restore(like, allow=allow, fallback=fallback)
            self._corrupt.add(wanted)
            first = error
        for earlier in reversed([s for s in steps if s < wanted]):
            try:
                found = self._read(earlier, like, allow)
            except CorruptCheckpointError:
                self._corrupt.add(earlier)
                continue
            except CheckpointError as error:
                if isinstance(error.__cause__, OSError):
                    raise
                continue  # of another model
            # The last good one is looked for in any case, to be named in the hint.
            if not fallback:
                first.hint = f"step={earlier}, the last good one, or fallback=True"
                raise first
            warn(f"{first}\n  Training continues from step {earlier}, the last good checkpoint.")
            return found
        first.hint = "all earlier checkpoints are corrupt or of another model"
        raise first

    def _read(self, step: int, like: PyTree, allow: Sequence[str]) -> Restored:
        path = self.path(step)
        found = read_checkpoint(path, like, allow=allow)
        if found.step != step:
            raise CorruptCheckpointError(
                f"the checkpoint {path} is that of step {found.step}: its directory was renamed "
                "or copied"
            )
        return found


def _identity(path: Path) -> object:
    """What tells a file or a directory from another one of the same name; None for none."""
    try:
        found = path.stat()
    except OSError:
        return None
    # A directory changes with what is in it.
    changed = None if path.is_dir() else found.st_mtime_ns
    return found.st_dev, found.st_ino, changed


def _warn_of_errors(errors: list[Exception], others: list[str]) -> None:
    # Not an exception: in a finaliser, where this runs, Python would print it and go on.
    for error in errors:
        warnings.warn(f"a checkpoint was not written: {error}", stacklevel=1)
    for text in others:
        warnings.warn(text, stacklevel=1)
