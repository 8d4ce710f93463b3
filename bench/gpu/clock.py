"""How much of the minutes is left, and what still fits."""

import time
from collections.abc import Mapping

from .item import Item

# So long, about, threads prepare together before what they prepared is timed.
BATCH = 36.0


class Clock:
    """Counts from when it is made.

    Args:
      minutes: for everything.
    """

    def __init__(self, minutes: float):
        self._start, self._end = time.monotonic(), time.monotonic() + 60 * minutes
        # What items took over what they were said to take, so far.
        self._factor = 1.0

    @property
    def spent(self) -> float:
        return time.monotonic() - self._start

    def fitting(self, waiting: Mapping[str, Item]) -> list[str]:
        """The first names that fit in a batch, and in the time that is left."""
        left = (self._end - time.monotonic()) / self._factor
        room, chosen = BATCH / self._factor, list[str]()
        for name, item in waiting.items():
            if item.seconds > left:
                continue
            if chosen and item.seconds > room:
                break
            chosen.append(name)
            left, room = left - item.seconds, room - item.seconds
        return chosen

    def learn(self, expected: float, took: float) -> None:
        """Corrects what the next items are said to take by what these took."""
        ratio = min(max(took / max(expected, 1e-9), 0.1), 10.0)
        self._factor = max((self._factor + ratio) / 2, 0.1)
