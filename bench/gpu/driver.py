"""Does the items of a plan: prepares some in threads, times each alone, stores each at once.

Whatever ends the process, what was stored stays: each group's file is replaced as a whole after
each row. The next run keeps those rows and goes on.
"""

import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import jax

from .. import results
from ..device import cores
from .clock import Clock
from .item import Item, Result

# More threads would only wait for Python.
MOST_THREADS = 12


class DeviceLostError(RuntimeError):
    """The device computes nothing more in this process."""


class Driver:
    """What runs a plan, and where it stores.

    Args:
      folder: of all results.
      device: as from ``bench.device.device``.
      conditions: what figures depend on besides; rows under equal ones are kept.
      stamp: the time of this run.
    """

    def __init__(
        self, folder: pathlib.Path, device: dict[str, Any], conditions: dict[str, Any], stamp: str
    ):
        self.folder, self.device = folder, device
        self.conditions, self.stamp = results.as_stored(conditions), stamp

    def kept(self, name: str, item: Item) -> dict[str, Result]:
        """The rows of an item that are stored already."""
        stored = results.read(self.folder, self.device, item.group)
        what = results.as_stored(item.what)
        return results.earlier(stored, name, what, self.conditions)

    def run(
        self, plan: dict[str, Item], clock: Clock, budget: float, rounds: int
    ) -> Iterator[tuple[str, dict[str, Result]]]:
        """Does what fits, and takes it out of the plan; gives names and rows as they are stored.

        Raises:
          DeviceLostError: where nothing runs on the device any more.
        """
        threads = min(MOST_THREADS, cores())
        with ThreadPoolExecutor(threads) as pool:
            while names := clock.fitting(plan):
                start = time.monotonic()
                batch = {name: plan.pop(name) for name in names}
                submitted: list[Future[Any]] = []

                def submit(function: Any, into: Any = submitted) -> Future[Any]:
                    into.append(pool.submit(function))
                    return into[-1]

                prepared = {name: item.prepare(submit) for name, item in batch.items()}
                # Threads that compile would slow what is timed.
                wait(submitted)
                for name, item in batch.items():
                    # Popped, so that its arrays are freed.
                    rows = self._finished(name, item, prepared.pop(name), budget, rounds)
                    self._store(name, item, rows)
                    yield name, rows
                clock.learn(sum(item.seconds for item in batch.values()), time.monotonic() - start)
                _require_device()

    def _finished(
        self, name: str, item: Item, prepared: Any, budget: float, rounds: int
    ) -> dict[str, Result]:
        try:
            return item.finish(prepared, budget, rounds)
        except Exception as error:  # the others go on
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            row = {"question": name, "figure": reason, "bound": "runs", "holds": False}
            return {name: {"op": item.group, **row}}

    def _store(self, name: str, item: Item, rows: dict[str, Result]) -> None:
        stored = results.read(self.folder, self.device, item.group)
        what = results.as_stored(item.what)
        for own, row in rows.items():
            stored["rows"][own] = {**row, "what": what, "from": name, "run": self.stamp}
        stored["runs"][self.stamp] = self.conditions
        results.write(self.folder, stored, [])


def _require_device() -> None:
    try:
        jax.block_until_ready(jax.numpy.zeros(()) + 1)
    except Exception as error:
        raise DeviceLostError(str(error)) from error
