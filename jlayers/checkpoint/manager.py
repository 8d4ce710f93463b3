"""The checkpoints of a run: written beside the training, the last and the best ones kept."""

from __future__ import annotations

import contextlib
import math
import os
import re
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..base import arguments
from ..base.errors import CheckpointError, public_api, warn
from ..base.specs import PyTree, format_short
from .atomic import clean, remove_whole
from .restore import DamagedCheckpointError, Restored, read_checkpoint, read_manifest
from .save import (
    ARRAYS,
    MANIFEST,
    Snapshot,
    folder_name,
    snapshot,
    write_snapshot,
)

_NAME = re.compile(r"step_(\d{8,})")


class CheckpointManager:
    """A folder of checkpoints.

    ``save`` keeps the training waiting for the copy to the host only; a thread writes it. Several
    processes may read the folder and even write to it. What a killed one left half-written is
    removed when the next one begins: a writer holds a lock on its folder until it dies. Where a
    file system has no locks, it stays.

    Args:
      folder: where they are; it is made.
      keep: the number of last ones to keep, by step; None for all.
      best: the number of best ones to keep beside these.
      metric: the name of the metric that says which is best. A checkpoint whose metrics lack it,
        or have NaN for it, is never among the best.
      mode: "min" or "max".

    Raises:
      CheckpointError: for a folder that cannot be made, and for what is no such option.

    >>> import tempfile, jax.numpy as jnp
    >>> from jlayers import training
    >>> with training.CheckpointManager(tempfile.mkdtemp(), keep=2) as checkpoints:
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
    ):
        if mode not in ("min", "max"):
            raise CheckpointError("mode is neither 'min' nor 'max'", got=format_short(mode))
        self.folder = Path(folder)
        self.keep = keep if keep is None else arguments.positive("keep", keep)
        self.best = arguments.integer("best", best, 0)
        self.metric, self.mode = metric, mode
        self._metrics: dict[int, dict[str, float]] = {}
        self._damaged: set[int] = set()
        self._thread: threading.Thread | None = None
        self._errors: list[Exception] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            clean(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"no folder for checkpoints: {error.strerror}",
                got=str(self.folder),
                hint="a folder that can be written",
            ) from error
        # Threads are waited for at exit; what the last one raised would be lost otherwise.
        weakref.finalize(self, _last_words, self._errors)

    @public_api
    def save(
        self,
        step: int,
        tree: PyTree,
        *,
        position: Any = None,
        metrics: Mapping[str, Any] | None = None,
        history: Sequence[Any] = (),
        extra: Mapping[str, Any] | None = None,
        model: Any = None,
    ) -> None:
        """Copies the tree to the host, and has it written in the background.

        It waits for the device to finish the tree, and for the write before to end. The tree may
        be donated as soon as this returns.

        Args:
          step, tree, position, metrics, history, extra, model: as for ``save_checkpoint``.

        Raises:
          CheckpointError: where ``tree`` cannot be saved, and where the previous write failed.
        """
        self.wait()
        shot = snapshot(
            tree,
            step=step,
            position=position,
            metrics=metrics,
            history=history,
            extra=extra,
            model=model,
            copy=True,
        )
        later = [s for s in self.steps() if s > shot.manifest.step and s not in self._damaged]
        if later:
            warn(
                f"a checkpoint of step {shot.manifest.step} goes into {self.folder}, which has one "
                f"of step {later[-1]}: that one stays the latest; use another folder to go back"
            )
        self._thread = threading.Thread(target=self._write, args=(shot,), name="checkpoint")
        self._thread.start()

    def _write(self, shot: Snapshot) -> None:
        try:
            write_snapshot(self.folder, shot)
            step = shot.manifest.step
            self._metrics[step] = shot.manifest.metrics
            self._damaged.discard(step)
            self._prune(step)
        except Exception as error:
            self._errors.append(error)

    def _prune(self, just_written: int) -> None:
        steps = self.steps()
        if self.keep is None:
            return
        kept = {just_written, *steps[-self.keep :], *self._best(steps)}
        for step in steps:
            if step not in kept:
                # Another process may have removed it already.
                with contextlib.suppress(FileNotFoundError):
                    remove_whole(self.path(step))
                self._metrics.pop(step, None)

    def _best(self, steps: list[int]) -> list[int]:
        if not self.best:
            return []
        sign = 1 if self.mode == "min" else -1
        ranked = [
            (sign * value, -step)
            for step in steps
            if not math.isnan(value := self._metrics_of(step).get(self.metric, math.nan))
        ]
        return [-step for _, step in sorted(ranked)[: self.best]]

    def _metrics_of(self, step: int) -> dict[str, float]:
        if step not in self._metrics:
            try:
                self._metrics[step] = read_manifest(self.path(step)).metrics
            except CheckpointError:
                self._metrics[step] = {}
        return self._metrics[step]

    @public_api
    def wait(self) -> None:
        """Comes back when nothing is being written.

        Raises:
          CheckpointError: where the last write failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._errors:
            raise self._errors.pop()

    @public_api
    def close(self) -> None:
        """As ``wait``; warns where the metric that says which is best was never there."""
        self.wait()
        steps = self.steps()
        if self.best and steps and not self._best(steps):
            names = sorted({name for step in steps for name in self._metrics_of(step)})
            warn(
                f"no checkpoint in {self.folder} has the metric {self.metric!r}, so none was kept "
                f"as a best one; there are: {', '.join(names) or 'no metrics'}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"CheckpointManager({str(self.folder)!r}, keep={self.keep}, best={self.best})"

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / folder_name(step)

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in order."""
        names: list[str] = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            names = os.listdir(self.folder)
        found = map(_NAME.fullmatch, names)
        return sorted(
            int(match[1])
            for match in found
            if match
            and all((self.folder / match[0] / name).exists() for name in (ARRAYS, MANIFEST))
        )

    def latest(self) -> int | None:
        """The last step that has a complete checkpoint."""
        return max(self.steps(), default=None)

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
          step: which; the latest unless said.
          fallback: where it is damaged, warns and takes the last good one before it.

        Raises:
          CheckpointError: where there is none, and as ``read_checkpoint``.
          DamagedCheckpointError: where it is damaged; the last good one is named.
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
        except DamagedCheckpointError as damage:
            self._damaged.add(wanted)
            first = damage
        for earlier in reversed([s for s in steps if s < wanted]):
            try:
                found = read_checkpoint(self.path(earlier), like, allow=allow)
            except DamagedCheckpointError:
                self._damaged.add(earlier)
                continue
            except CheckpointError:  # of another model
                continue
            if not fallback:
                first.hint = f"step={earlier}, the last good one, or fallback=True"
                raise first
            warn(f"{first}\n  The run goes on from step {earlier}, the last good one.")
            return found
        first.hint = "no checkpoint before it is good either"
        raise first


def _last_words(errors: list[Exception]) -> None:
    for error in errors:
        warnings.warn(f"a checkpoint was not written, and nobody asked: {error}", stacklevel=1)
