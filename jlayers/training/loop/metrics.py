"""The metrics of a loop: summed up on the device, read one record behind, given to the hooks.

How to read this file: the compiled step adds its metrics to a ``MetricAccumulator``, so that the
loop need not wait for any step. When a record is due, ``flush`` packs the sums into one array and
starts them again; ``History`` holds that array until the device has surely finished it, then makes
a ``Record`` of it and passes the record to the hooks.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from ...base.errors import TrainingError
from ...base.specs import format_spec, specs_of
from ...inspection.training_loss import Metrics
from ...records.record import Record
from ...sharding.batches import put
from .hooks import Hook, stops

# Seconds: more than it takes to copy numbers that have been computed already.
_WAITED = 1e-3


class MetricAccumulator(NamedTuple):
    """Sums over the steps since the last record, on the device or on the host.

    Attributes:
      step: int32 (), the steps since the last record, those that do not count too. The number of a
        step may be larger than an int32, which the host knows.
      count: int32 (), the steps that are in the sums.
      sums: of each metric: float32, or int32 for counts (up to 2**31 in a record).
      bad: int32 (), what ``step`` was before the first non-finite step, or -1.
    """

    step: Any
    count: Any
    sums: dict[str, Any]
    bad: Any

    def add(
        self, metrics: Metrics, finite: jax.Array, active: jax.Array | None
    ) -> MetricAccumulator:
        """With one more step, which counts where it was finite and active."""
        counts = finite if active is None else finite & active
        whole = jnp.asarray(True) if active is None else counts
        first = ~finite & (self.bad < 0)

        def term(name: str, value: jax.Array) -> jax.Array:
            # Integers of skipped steps count too: "skipped" is one of them.
            counted = counts if _is_mean(value) else whole
            return jnp.where(counted, value.astype(self.sums[name].dtype), 0)

        return MetricAccumulator(
            self.step + 1,
            self.count + counts.astype(jnp.int32),
            {name: self.sums[name] + term(name, value) for name, value in metrics.items()},
            jnp.where(first, self.step, self.bad),
        )

    def means(self) -> dict[str, float]:
        """The metrics of a record: means over the steps that count, and the sums of integers."""
        # Where no step counts, 0 / 0 would be a NaN that no step made.
        count = float(self.count)
        return {
            name: float(value) / (count if _is_mean(value) else 1)
            for name, value in self.sums.items()
            if count or not _is_mean(value)
        }


def _is_mean(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating))


def empty_accumulator(metrics: Mapping[str, Any]) -> MetricAccumulator:
    """The accumulator before the first step, zeros in numpy; ``metrics`` are their specs."""
    for name, spec in metrics.items():
        if spec.shape or jnp.issubdtype(spec.dtype, jnp.complexfloating):
            raise TrainingError(
                f"the metric {name!r} must be a real scalar",
                expected="real scalars: fit takes their means",
                got=format_spec(specs_of(spec)),
                hint="a mean, or one metric for each entry",
            )
    # numpy: nothing is compiled, and the first call puts them on the state's devices.
    sums = {
        name: np.zeros((), np.float32 if _is_mean(spec) else np.int32)
        for name, spec in metrics.items()
    }
    return MetricAccumulator(np.int32(0), np.int32(0), sums, np.int32(-1))


def flush(accumulator: MetricAccumulator, clear: bool) -> tuple[jax.Array, MetricAccumulator]:
    """All numbers in one array, to be copied to the host at once, and the next accumulator.

    The sums start again; with ``clear`` the non-finite step is forgotten.
    """
    step, count, sums, bad = accumulator
    leaves = [step, count, bad, *sums.values()]
    # One transfer for all: each costs the host more than its numbers do.
    words = jnp.stack([lax.bitcast_convert_type(leaf, jnp.int32) for leaf in leaves])
    step, count, sums = jax.tree.map(jnp.zeros_like, (step, count, sums))
    return words, MetricAccumulator(step, count, sums, jnp.full_like(bad, -1) if clear else bad)


def unflatten(words: np.ndarray, like: MetricAccumulator) -> MetricAccumulator:
    """The accumulator that was flushed; ``like`` has its metrics and their dtypes."""
    # Every word is read both ways, and its metric's dtype says which reading is meant.
    step, count, bad, *whole = words
    means = words.view(np.float32)[3:]
    sums = {
        name: means[i] if value.dtype == np.float32 else whole[i]
        for i, (name, value) in enumerate(like.sums.items())
    }
    return MetricAccumulator(step, count, sums, bad)


class Pending(NamedTuple):
    """A record to be read later: the words of ``flush``, still on the device, and hooks' metrics.

    Attributes:
      step, epoch: of the record.
      moment: when its last step was launched, by ``time.perf_counter``.
      words: of ``flush``; ``like`` is an accumulator of the same metrics.
      extra: the metrics of hooks.
    """

    step: int
    epoch: int
    moment: float
    words: jax.Array
    like: MetricAccumulator
    extra: Mapping[str, jax.typing.ArrayLike]


class History:
    """The records of a loop, those that were read and those that are still on the device.

    Attributes:
      records: all that were read.
      pending: those that are still on the device, the oldest first.
    """

    def __init__(self, hooks: tuple[Hook, ...]):
        self.records: list[Record] = []
        self._hooks = hooks
        self._muted = False
        self.pending: collections.deque[Pending] = collections.deque()
        self._started = time.perf_counter()
        self._last = (0, self._started)

    def start(self, step: int, records: list[Record]) -> None:
        """Continues from a step, with the records before it."""
        self.records = records
        self.pending.clear()
        self._last = (step, time.perf_counter())

    def mute(self) -> None:
        """Ignores what hooks raise from here on: the loop is ending by another error."""
        self._muted = True

    def read(self, newest: int, check: Callable[[int, MetricAccumulator], None]) -> str | None:
        """Makes records of all but the ``newest``, for the hooks; why to stop, if one says so.

        Args:
          newest: how many to leave: the device may still be computing them.
          check: called with the step and the numbers of each before any hook gets its record.
        """
        stopped = None
        while len(self.pending) > newest:
            pending = self.pending.popleft()
            accumulator, moment = self._fetch(pending)
            check(pending.step, accumulator)
            extra = jax.device_get(pending.extra) if pending.extra else {}
            means = accumulator.means()
            if taken := [name for name in extra if name in means]:
                raise TrainingError(
                    f"a hook returned the metric {taken[0]!r}, which the step has as well",
                    hint=f"another name, such as 'hook/{taken[0]}'",
                )
            metrics = means | {name: float(value) for name, value in extra.items()}
            step, before = self._last
            # Two records may lie within the resolution of the clock.
            rate = (pending.step - step) / max(moment - before, 1e-9)
            # The time of an evaluation does not count for the steps after it.
            self._last = (pending.step, time.perf_counter() if extra else moment)
            seconds = moment - self._started
            record = Record(pending.step, pending.epoch, metrics, seconds, rate)
            if self.records and self.records[-1].step == pending.step:
                # The last evaluation, at a step whose record has been read already.
                old = self.records.pop()
                record = old._replace(metrics=old.metrics | metrics)
            self.records.append(record)
            stopped = self._notify(record) or stopped
        return stopped

    def _notify(self, record: Record) -> str | None:
        stopped = None
        for hook in self._hooks:
            with contextlib.suppress(*[Exception] * self._muted):
                reason = hook.on_record(record)
                if isinstance(reason, str):
                    stopped = reason
                elif stops(reason):
                    stopped = "callback"
        return stopped

    def _fetch(self, pending: Pending) -> tuple[MetricAccumulator, float]:
        """The numbers of a record, and when the device had them.

        If the host had to wait for them, that is now; else about when its last step was launched.
        """
        before = time.perf_counter()
        # Not jax.device_get, which runs several times as much Python for one array. A user's guard
        # is there to find transfers at each step; this one is meant, once for each record.
        with jax.transfer_guard_device_to_host("allow"):
            words = np.asarray(pending.words)
        accumulator = unflatten(words, pending.like)
        now = time.perf_counter()
        waited = now - before > _WAITED or pending.moment <= self._last[1]
        return accumulator, now if waited else pending.moment


def placed(state: Any, accumulator: MetricAccumulator) -> MetricAccumulator:
    """The accumulator on the mesh of the state, if any: where the step will leave it."""
    for leaf in jax.tree.leaves(state):
        if isinstance(sharding := getattr(leaf, "sharding", None), NamedSharding):
            everywhere = NamedSharding(sharding.mesh, PartitionSpec())
            return put(accumulator, everywhere)
    return accumulator
