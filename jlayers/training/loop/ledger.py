"""The records of a loop: cut from the device's sums when they are due, read when they are there."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..logs.progress import Progress
from .early_stopping import EarlyStopping
from .record import Record
from .tally import Tally

# Seconds: more than it takes to copy what is there already.
_WAITED = 1e-3


class Cut(NamedTuple):
    """A record whose numbers are still on the device."""

    step: int
    epoch: int
    moment: float
    tally: Tally
    evaluated: dict[str, Any]


class Ledger:
    """Records, and those to be.

    Attributes:
      records: all that were read.
      tell: called with each record; True ends the loop.
    """

    def __init__(
        self,
        tell: tuple[Callable[[Record], Any], ...],
        early_stopping: EarlyStopping | None,
        progress: Progress | None,
    ):
        self.records: list[Record] = []
        self.tell = tell
        self._early_stopping = early_stopping
        self._progress = progress
        self._cuts: collections.deque[Cut] = collections.deque()
        self._began = time.perf_counter()
        self._last = (0, self._began)

    def begin(self, step: int, records: list[Record]) -> None:
        """From here on, with the records of before."""
        self.records = records
        self.drop()
        self._last = (step, time.perf_counter())

    def drop(self) -> None:
        """Forgets what was not read."""
        self._cuts.clear()

    def cut(self, step: int, epoch: int, tally: Tally, evaluated: dict[str, Any]) -> None:
        """Ends the stretch of steps that a record is of."""
        self._cuts.append(Cut(step, epoch, time.perf_counter(), tally, evaluated))

    def read(self, newest: int, check: Callable[[int, Tally], None]) -> str | None:
        """Makes records of all cuts but the ``newest`` ones; why to stop, if so.

        Args:
          newest: how many to leave: the device may still be at work on them.
          check: called with the step and the numbers of each before anything is told of it.
        """
        stopped = None
        while len(self._cuts) > newest:
            cut = self._cuts.popleft()
            tally, moment = self._waited_for(cut)
            check(cut.step, tally)
            evaluated = jax.device_get(cut.evaluated)
            metrics = tally.means()
            metrics |= {f"eval/{name}": float(value) for name, value in evaluated.items()}
            step, before = self._last
            rate = (cut.step - step) / max(moment - before, 1e-9)
            # An evaluation is no part of the next steps' time.
            self._last = (cut.step, time.perf_counter() if evaluated else moment)
            record = Record(cut.step, cut.epoch, metrics, moment - self._began, rate)
            self.records.append(record)
            if self._progress is not None:
                self._progress.metrics(metrics)
            for tell in self.tell:
                if tell(record) is True:
                    stopped = "callback"
        return "early stopping" if self.stops_early() else stopped

    def _waited_for(self, cut: Cut) -> tuple[Tally, float]:
        """The numbers of a cut, and when the device had them.

        If they are waited for, that is now; else about when its last step was sent off.
        """
        asked = time.perf_counter()
        tally = jax.device_get(cut.tally)
        now = time.perf_counter()
        waited = now - asked > _WAITED or cut.moment <= self._last[1]
        return tally, now if waited else cut.moment

    def stops_early(self) -> bool:
        return self._early_stopping is not None and self._early_stopping.should_stop(self.records)
