"""Timing that holds on a shared machine: candidates interleaved in one run, medians, ratios."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Timing(NamedTuple):
    """Seconds of one call: the median, and the middle half of the calls."""

    median: float
    low: float
    high: float


def interleaved(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Timing]:
    """Times the candidates in turns, so that what slows the machine slows all of them.

    Args:
      candidates: functions of no arguments; what they return is waited for.
      rounds: how often each is called, after two calls that do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 2):
        # Forwards and backwards in turn: nobody always runs in the wake of the same neighbour.
        for name in list(candidates)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            jax.block_until_ready(candidates[name]())
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: _timing(values) for name, values in seconds.items()}


def _timing(values: list[float]) -> Timing:
    low, median, high = statistics.quantiles(values, n=4)
    return Timing(median, low, high)
