"""The records of a loop: cut from the device's sums when they are due, read when they are there."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..record import Record
from ..writers.progress import Progress
from .early_stopping import EarlyStopping, Waiting
from .metrics import Tally, uncut

# Seconds: more than it takes to copy what is there already.
_WAITED = 1e-3


class Cut(NamedTuple):
    """A record whose numbers are still on the device.

    Attributes:
      step, epoch, moment: of the last step that it is of.
      words: the numbers of its tally in one array.
      like: a tally of the same metrics.
      evaluated: what an evaluation gave.
    """

    step: int
    epoch: int
    moment: float
    words: Any
    like: Tally
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
        self._waiting = Waiting()

    def begin(self, step: int, records: list[Record]) -> None:
        """From here on, with the records of before."""
        self.records = records
        self._waiting = Waiting()
        for record in records:
            self._follow(record)
        self.drop()
        self._last = (step, time.perf_counter())

    def drop(self) -> None:
        """Forgets what was not read."""
        self._cuts.clear()

    def cut(
        self, step: int, epoch: int, words: Any, like: Tally, evaluated: dict[str, Any]
    ) -> None:
        """Ends the stretch of steps that a record is of."""
        self._cuts.append(Cut(step, epoch, time.perf_counter(), words, like, evaluated))

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
            evaluated = jax.device_get(cut.evaluated) if cut.evaluated else {}
            metrics = tally.means()
            metrics |= {f"eval/{name}": float(value) for name, value in evaluated.items()}
            step, before = self._last
            rate = (cut.step - step) / max(moment - before, 1e-9)
            # An evaluation is no part of the next steps' time.
            self._last = (cut.step, time.perf_counter() if evaluated else moment)
            record = Record(cut.step, cut.epoch, metrics, moment - self._began, rate)
            self._follow(record)
            if self.records and self.records[-1].step == cut.step:
                # The last evaluation of a run whose last record was told.
                old = self.records.pop()
                record = old._replace(metrics=old.metrics | metrics)
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
        # As jax.device_get, which runs through several times as much Python.
        with jax.transfer_guard_device_to_host("allow"):
            words = np.asarray(cut.words)
        tally = uncut(words, cut.like)
        now = time.perf_counter()
        waited = now - asked > _WAITED or cut.moment <= self._last[1]
        return tally, now if waited else cut.moment

    def hush(self) -> None:
        """What a callback raises no longer counts: the loop is ending by another error."""
        self.tell = tuple(_quietly(tell) for tell in self.tell)

    def stops_early(self) -> bool:
        early = self._early_stopping
        return early is not None and early.is_over(self._waiting)

    def _follow(self, record: Record) -> None:
        if self._early_stopping is not None:
            self._waiting = self._early_stopping.follow(self._waiting, record)


def _quietly(tell: Callable[[Record], Any]) -> Callable[[Record], Any]:
    def call(record: Record) -> None:
        with contextlib.suppress(Exception):
            tell(record)

    return call
