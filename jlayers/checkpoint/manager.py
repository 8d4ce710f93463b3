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
from .save import Snapshot, directory_name, snapshot, steps_in, write_snapshot


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
        self.folder = Path(folder)
        self.keep = keep if keep is None else arguments.positive("keep", keep)
        self.best = arguments.integer("best", best, 0)
        self.metric, self.mode = metric, mode
        self.format = find(format).name
        # Read once: pruning would parse all manifests again after every save.
        self._metrics: dict[int, dict[str, float]] = {}
        # `save` does not warn of these when training goes back before them.
        self._corrupt: set[int] = set()
        self._thread: threading.Thread | None = None
        # A list of its own, as the finalizer below must not refer to this object.
        self._errors: list[Exception] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            clean(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"cannot create the folder for checkpoints: {error.strerror}",
                got=str(self.folder),
                hint="a folder that can be written",
            ) from error
        # Python waits for threads at exit; the error of the last one would be lost otherwise.
        weakref.finalize(self, _warn_of_errors, self._errors)

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
        self._thread.start()

    def _write(self, shot: Snapshot) -> None:
        try:
            write_snapshot(self.folder, shot)
            step = shot.manifest.step
            self._metrics[step] = shot.manifest.metrics
            self._corrupt.discard(step)
            self._prune(step)
        except Exception as error:
            self._errors.append(error)

    def _prune(self, just_written: int) -> None:
        steps = self.steps()
        if self.keep is None:
            return
        # When training goes back, the step just written is not among the last ones.
        kept = {just_written, *steps[-self.keep :], *self._best(steps)}
        for step in steps:
            if step not in kept:
                # Another process may have removed it already.
                with contextlib.suppress(FileNotFoundError):
                    atomic_remove(self.path(step))
                self._metrics.pop(step, None)

    def _best(self, steps: list[int]) -> list[int]:
        return self._ranked(steps)[: self.best] if self.best else []

    def _ranked(self, steps: list[int]) -> list[int]:
        """The steps that have the metric, the best first."""
        sign = 1 if self.mode == "min" else -1
        # Of equal ones the later is better.
        ranked = [
            (sign * value, -step)
            for step in steps
            if not math.isnan(value := self._metrics_of(step).get(self.metric, math.nan))
        ]
        return [-step for _, step in sorted(ranked)]

    def _metrics_of(self, step: int) -> dict[str, float]:
        if step not in self._metrics:
            try:
                self._metrics[step] = read_manifest(self.path(step)).metrics
            except CheckpointError:
                # It may be corrupt, or just removed: not among the best in any case.
                self._metrics[step] = {}
        return self._metrics[step]

    @public_api
    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
          CheckpointError: if the last write failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._errors:
            raise self._errors.pop()

    @public_api
    def close(self) -> None:
        """As ``wait``; warns if no checkpoint has the metric that decides which is best."""
        self.wait()
        steps = self.steps()
        if self.best and steps and not self._best(steps):
            names = sorted({name for step in steps for name in self._metrics_of(step)})
            warn(
                f"no checkpoint in {self.folder} has the metric {self.metric!r}, so none was kept "
                f"as a best one; their metrics: {', '.join(names) or 'none'}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
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
        ranked = self._ranked(self.steps())
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
            return read_checkpoint(self.path(wanted), like, allow=allow)
        except CorruptCheckpointError as error:
            self._corrupt.add(wanted)
            first = error
        for earlier in reversed([s for s in steps if s < wanted]):
            try:
                found = read_checkpoint(self.path(earlier), like, allow=allow)
            except CorruptCheckpointError:
                self._corrupt.add(earlier)
                continue
            except CheckpointError:  # of another model
                continue
            # The last good one is looked for in any case, to be named in the hint.
            if not fallback:
                first.hint = f"step={earlier}, the last good one, or fallback=True"
                raise first
            warn(f"{first}\n  Training continues from step {earlier}, the last good checkpoint.")
            return found
        first.hint = "all earlier checkpoints are corrupt or of another model"
        raise first


def _warn_of_errors(errors: list[Exception]) -> None:
    # Not an exception: in a finaliser, where this runs, Python would print it and go on.
    for error in errors:
        warnings.warn(f"a checkpoint was not written: {error}", stacklevel=1)
