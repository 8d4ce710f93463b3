"""Which checkpoints of a folder are kept: the last ones and the best ones.

How to read this file: ``Retention.prune`` removes all others after a save. Metrics are read once
from each manifest, as all of them would be parsed again after every save.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

from ..base.errors import CheckpointError
from .atomic import atomic_remove
from .group import CorruptCheckpointError
from .layout import MANIFEST, directory_name, steps_in
from .restore import read_manifest


class Retention:
    """What is kept in a folder.

    Args:
      folder: of the checkpoints.
      keep: the number of last ones; None for all.
      best: the number of best ones beside these.
      metric: the name of the metric that decides which is best.
      mode: "min" or "max".
    """

    def __init__(self, folder: Path, keep: int | None, best: int, metric: str, mode: str):
        self._folder, self._keep, self._best = folder, keep, best
        self._metric, self._sign = metric, 1 if mode == "min" else -1
        # With the identity of the manifest, which another process may have replaced.
        self._metrics: dict[int, tuple[object, dict[str, float]]] = {}
        # Steps that could not be removed, and were told of.
        self._stuck: set[int] = set()

    def wrote(self, step: int, metrics: dict[str, float]) -> None:
        """A checkpoint of these metrics was written."""
        self._metrics[step] = identity(self._manifest(step)), metrics

    def prune(self, just_written: int) -> list[str]:
        """Removes what is not kept; returns what to warn of."""
        if self._keep is None:
            return []
        steps = steps_in(self._folder)
        # When training goes back, the step just written is not among the last ones.
        kept = {just_written, *steps[-self._keep :], *self.best(steps)}
        return [text for step in steps if step not in kept for text in self._remove(step)]

    def _remove(self, step: int) -> list[str]:
        path = self._folder / directory_name(step)
        try:
            # Another process may have removed it already.
            with contextlib.suppress(FileNotFoundError):
                atomic_remove(path)
            self._metrics.pop(step, None)
            self._stuck.discard(step)
        except OSError as error:  # tried again with the next save, and told of once
            if step not in self._stuck:
                self._stuck.add(step)
                return [f"{path} could not be removed: {error.strerror}"]
        return []

    def best(self, steps: list[int]) -> list[int]:
        """The steps that are kept for their metrics, the best first."""
        if not self._best:
            return []
        ranked, unknown = self.ranked(steps)
        # What could not be read may be the best.
        return [*unknown, *ranked[: self._best]]

    def ranked(self, steps: list[int]) -> tuple[list[int], list[int]]:
        """The steps that have the metric, the best first, and those that cannot be read."""
        ranked, unknown = [], []
        for step in steps:
            metrics = self.metrics_of(step)
            if metrics is None:
                unknown.append(step)
            elif not math.isnan(value := metrics.get(self._metric, math.nan)):
                ranked.append((self._sign * value, -step))
        # Of equal ones the later is better.
        return [-step for _, step in sorted(ranked)], unknown

    def metrics_of(self, step: int) -> dict[str, float] | None:
        """The metrics of a checkpoint, none of a corrupt one; None where they cannot be read."""
        found = identity(self._manifest(step))
        known, metrics = self._metrics.get(step, (None, {}))
        if found is None or found != known:
            try:
                manifest = read_manifest(self._manifest(step).parent)
                # A checkpoint that was renamed is that of another step.
                metrics = manifest.metrics if manifest.step == step else {}
            except CorruptCheckpointError:
                metrics = {}  # or just removed: not among the best in any case
            except CheckpointError:
                return None
            self._metrics[step] = found, metrics
        return metrics

    def _manifest(self, step: int) -> Path:
        return self._folder / directory_name(step) / MANIFEST


def identity(path: Path) -> object:
    """What tells a file or a directory from another one of the same name; None for none."""
    try:
        found = path.stat()
    except OSError:
        return None
    # A directory changes with what is in it.
    changed = None if path.is_dir() else found.st_mtime_ns
    return found.st_dev, found.st_ino, changed
