"""A folder of checkpoints, written in the background; the last and the best are kept.

How to read this file: ``save`` copies on the caller's thread and starts ``_write``, which writes
and then prunes the folder. All state is in the folder, except which checkpoints were found
corrupt. ``restore`` falls back to earlier ones. Where there are several processes, each does all of
this on its main thread together with the others (``Group.together``), the first decides
(``Group.decided``), and the threads meet by files alone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from ..base import arguments
from ..base.errors import CheckpointError, public_api, warn
from ..base.specs import format_short
from ..base.types import PyTree
from .atomic import clean, landmark
from .formats.base import find
from .group import CorruptCheckpointError, Group
from .layout import directory_name, steps_in
from .restore import Restored, read_checkpoint
from .retention import Retention, identity
from .saving import begin, snapshot
from .writing import Snapshot, Writing, wait_until_seen


class CheckpointManager:
    """A folder of checkpoints.

    ``save`` blocks the training for the copy to the host only; a thread writes it. Several
    processes may read the folder and even write to it. What a killed process left half-written is
    removed when the next one starts: a writer holds a lock on its directory until it dies. On a
    file system without locks it is not removed.

    The processes of ``jax.distributed`` save and restore together, in a folder that all of them
    see: each calls everything but ``path`` and ``cut_short``, on its main thread. Each writes its
    own shards; what each has whole, the first one writes. An error on one is raised on all.

    Args:
      folder: where the checkpoints are; it is created.
      keep: the number of last ones to keep, by step; None for all.
      best: the number of best ones to keep beside these.
      metric: the name of the metric that decides which is best. A checkpoint whose metrics lack
        it, or have NaN for it, is never among the best.
      mode: "min" or "max".
      format: the name of the file format of the arrays.

    Raises:
      CheckpointError: if the folder cannot be created, for an invalid option, and if not all
        processes see the same folder.
      ProcessError: here and by all methods, if a process does not come in time.

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

    # A stand-in for several processes in tests.
    _processes: Callable[[], Group] = Group

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
        # `save` does not warn of these when training goes back before them.
        self._corrupt: set[int] = set()
        self._thread: threading.Thread | None = None
        # Whether a training ended before its time: what is missing may have come later.
        self._cut_short = False
        # A list of its own, as the finalizer below must not refer to this object.
        self._errors: list[Exception] = []
        # Of what went wrong beside a write that did not fail.
        self._warnings: list[str] = []
        self._group = self._processes()
        # A later chdir changes nothing.
        self.folder = Path(os.path.abspath(folder))
        self._retention = Retention(self.folder, self.keep, best, metric, mode)
        self._identity: object = None

        def see() -> None:
            wait_until_seen(self.folder / mark, self._group)

        with contextlib.ExitStack() as opened:
            mark = self._group.decided("opening checkpoints", lambda: self._open(opened))
            self._group.together("opening checkpoints", see)
        # Python waits for threads at exit; the error of the last one would be lost otherwise.
        weakref.finalize(self, _warn_of_errors, self._errors, self._warnings)

    def _open(self, opened: contextlib.ExitStack) -> str:
        """Makes and cleans the folder, and with several processes leaves a mark for the others."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._identity = identity(self.folder)
            clean(self.folder)
            return opened.enter_context(landmark(self.folder)).name if self._group.count > 1 else ""
        except OSError as error:
            raise CheckpointError(
                f"cannot create the folder for checkpoints: {error.strerror}",
                got=str(self.folder),
                hint="a folder that can be written",
            ) from error

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

        def take() -> Snapshot:
            shot = snapshot(
                *(tree, step, position, metrics, history, extra, model, self.format, self._group),
                copy=True,
            )
            if self._group.index == 0:
                self._warn_of_later(shot.manifest.step)
            return shot

        writing = begin(f"saving step {format_short(step)}", self.folder, self._group, take)
        # Not a daemon: a program that ends waits for its last checkpoint.
        self._thread = threading.Thread(target=self._write, args=(writing,), name="checkpoint")
        try:
            self._thread.start()
        except RuntimeError:  # the system has no more threads, or Python is exiting
            self._thread = None
            self._write(writing)

    def _warn_of_later(self, step: int) -> None:
        later = [s for s in steps_in(self.folder) if s > step and s not in self._corrupt]
        if later:
            warn(
                f"saving step {step} into {self.folder}, where step {later[-1]} "
                "remains the latest checkpoint; use another folder to go back"
            )

    def _write(self, writing: Writing) -> None:
        step, first = writing.step, self._group.index == 0
        try:
            if first:
                self._check_folder(step)
            writing.run()
        except Exception as error:
            self._errors.append(error)
            return
        self._corrupt.discard(step)
        if not first:
            return
        # What was written is good, whatever happens to older ones: training goes on.
        try:
            self._identity = self._identity or identity(self.folder)
            self._retention.wrote(step, writing.metrics)
            self._warnings += self._retention.prune(step)
        except Exception as error:
            self._warnings.append(f"old checkpoints were not removed: {error}")

    def _check_folder(self, step: int) -> None:
        """Says so where the folder is not the one that it was, and forgets what was read there."""
        found = identity(self.folder)
        if found != self._identity:
            what = "is another one than before" if found else "was renamed or removed"
            self._warnings.append(
                f"the folder {self.folder} {what}; step {step} is written into "
                + ("it" if found else "a new folder of that name")
            )
            self._identity = found
            self._corrupt.clear()

    def cut_short(self, early: bool) -> None:
        """Whether the training that used this ended before its time: ``fit`` says so."""
        self._cut_short = early

    @public_api
    def wait(self) -> None:
        """Returns when nothing is being written.

        Raises:
          CheckpointError: if the last write failed.
        """
        self._group.together("waiting for the last checkpoint", self._finish)

    def _finish(self) -> None:
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
        self._group.together("closing the checkpoints", self._warn_of_no_best)

    def _warn_of_no_best(self) -> None:
        if not self.best or self._cut_short or self._group.index != 0:
            return
        steps = steps_in(self.folder)
        if steps and not self._retention.best(steps):
            found = [self._retention.metrics_of(step) or {} for step in steps]
            names = sorted({name for metrics in found for name in metrics})
            warn(
                f"no checkpoint in {self.folder} has the metric {self.metric!r}, so none was kept "
                f"as a best one; their metrics: {', '.join(names) or 'none'}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._cut_short = self._cut_short or details[0] is not None
        # The other processes may be anywhere where this one has failed: they are not waited for.
        self._finish() if details[0] is not None else self.close()

    def __repr__(self) -> str:
        return f"CheckpointManager({str(self.folder)!r}, keep={self.keep}, best={self.best})"

    def path(self, step: int) -> Path:
        """The directory of a step's checkpoint."""
        return self.folder / directory_name(step)

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in order."""
        return self._group.decided("listing checkpoints", lambda: steps_in(self.folder))

    def latest(self) -> int | None:
        """The last step that has a complete checkpoint."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step whose checkpoint has the best ``metric``, by ``mode``; None where none has it.

        Of those that are still there: ``best=1`` keeps it. ``restore(like, best_step())`` reads it.
        """

        def decide() -> int | None:
            ranked, _ = self._retention.ranked(steps_in(self.folder))
            return ranked[0] if ranked else None

        return self._group.decided("finding the best checkpoint", decide)

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
            if self._group.index == 0:
                warn(
                    f"{first}\n  Training continues from step {earlier}, the last good checkpoint."
                )
            return found
        first.hint = "all earlier checkpoints are corrupt or of another model"
        raise first

    def _read(self, step: int, like: PyTree, allow: Sequence[str]) -> Restored:
        """The checkpoint of a step; where one process finds it corrupt, all of them do.

        Raises:
          CheckpointError: as ``read_checkpoint``.
        """
        path, found = self.path(step), list[Restored]()

        def read() -> None:
            found.append(read_checkpoint(path, like, allow=allow))
            if found[0].step != step:
                raise CorruptCheckpointError(
                    f"the checkpoint {path} is that of step {found[0].step}: its directory was "
                    "renamed or copied"
                )

        self._group.together(f"reading step {step}", read)
        return found[0]


def _warn_of_errors(errors: list[Exception], others: list[str]) -> None:
    # Not an exception: in a finaliser, where this runs, Python would print it and go on.
    for error in errors:
        warnings.warn(f"a checkpoint was not written: {error}", stacklevel=1)
    for text in others:
        warnings.warn(text, stacklevel=1)
