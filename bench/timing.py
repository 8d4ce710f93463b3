"""Timing that is fair on a shared machine: candidates in turns in one run, and medians."""

import functools
import gc
import itertools
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Timing(NamedTuple):
    """Seconds of one call: the median, and the middle half of the calls."""

    median: float
    low: float
    high: float
    calls: int


# Seconds of a turn, and of a call so long that the state of the machine at its start hardly
# matters: OpenMP's threads spin for some milliseconds after torch has returned.
TURN, LONG = 0.03, 0.1
# Seconds of queued calls that are waited for once, and the most of them: each has results.
QUEUE, MOST_QUEUED = 3e-3, 50


def time_boxed(
    candidates: dict[str, Callable[[], Any]], budget: float, rounds: int, least: int = 3
) -> dict[str, Timing]:
    """Times the candidates in turns until the time is spent, each with its share of it.

    The first call of a turn does not count unless it is ``LONG``: the threads of one framework
    still spin when the next candidate starts, and the caches hold what the last one read. Calls
    that count follow for ``TURN`` seconds. Each round has a new random order. A candidate whose
    share is spent leaves once it has had ``least`` calls, so that a slow one costs little and a
    fast one is still measured well. The last one leaves with the one before it: alone it would run
    on a quieter machine than the others.

    Args:
      candidates: functions of no arguments that wait for their results, each called before.
      budget: seconds for all of them together.
      rounds: the most calls of each.
      least: the fewest.
    """
    order, left = random.Random(0), list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    spent = dict.fromkeys(candidates, 0.0)
    share, company = budget / max(len(candidates), 1), min(len(candidates), 2)
    gc.collect()
    gc.disable()
    try:
        while left and len(left) >= company:
            order.shuffle(left)
            for name in list(left):
                counted, lasted = _turn(candidates[name], rounds - len(seconds[name]))
                seconds[name] += counted
                spent[name] += lasted
                calls = len(seconds[name])
                if calls >= rounds or (calls >= least and spent[name] >= share):
                    left.remove(name)
    finally:
        gc.enable()
    return {name: _timing(values) for name, values in seconds.items()}


def queued(
    candidates: dict[str, Callable[[int], Any]], budget: float, rounds: int
) -> dict[str, Timing]:
    """``time_boxed`` of calls that are queued before they are waited for, as on an accelerator.

    There a call only queues its work, and waiting for it costs some ten microseconds: more than
    many operations take. So a call that counts is as many of them as take ``QUEUE`` seconds.

    Args:
      candidates: functions of how many calls to queue, each called before.

    Returns:
      Seconds of one of the queued calls.
    """
    times = {name: _queue_length(call) for name, call in candidates.items()}
    calls = {name: functools.partial(call, times[name]) for name, call in candidates.items()}
    return {
        name: Timing(*(seconds / times[name] for seconds in timing[:3]), timing.calls)
        for name, timing in time_boxed(calls, budget, rounds).items()
    }


def _queue_length(call: Callable[[int], Any]) -> int:
    """How many calls take ``QUEUE`` seconds, the time to wait for them not counted."""
    one = _seconds_of(call, 1)
    if one >= 3 * QUEUE:
        return 1
    each = max((_seconds_of(call, 9) - one) / 8, QUEUE / MOST_QUEUED)
    return max(round(QUEUE / each), 1)


def _seconds_of(call: Callable[[int], Any], times: int) -> float:
    start = time.perf_counter()
    call(times)
    return time.perf_counter() - start


def _turn(call: Callable[[], Any], most: int) -> tuple[list[float], float]:
    """The seconds of the calls that count, at most ``most``, and of all calls."""
    start = time.perf_counter()
    call()
    moments = [time.perf_counter()]
    first = moments[0] - start
    if first >= LONG:
        return [first], first
    while len(moments) <= most and (len(moments) < 2 or moments[-1] - moments[0] < TURN):
        call()
        moments.append(time.perf_counter())
    counted = [after - before for before, after in itertools.pairwise(moments)]
    return counted, moments[-1] - start


def _timing(values: list[float]) -> Timing:
    low, median, high = map(float, np.quantile(values, (0.25, 0.5, 0.75)))
    return Timing(median, low, high, len(values))
