"""Rows that answer a question with a figure and its bound, in place of a time by framework."""

from collections.abc import Callable
from typing import Any, NamedTuple

from .noise import mark, share_of_others
from .timing import time_boxed


class Answer(NamedTuple):
    """What was measured.

    Args:
      figure: the result, as text.
      bound: what was promised, as text.
      holds: whether the figure keeps to it.
      seconds: the timings behind the figure, as JSON has them.
      others: the share of the processor that other processes took.
      needed: seconds that the bytes or the operations of what was timed first need, where known.
    """

    question: str
    figure: str
    bound: str
    holds: bool
    seconds: dict[str, Any]
    others: float | None = None
    needed: float | None = None


# (seconds, most calls) to the answer.
Question = Callable[[float, int], Answer]


def compared(
    question: str,
    calls: dict[str, Callable[[], Any]],
    bound: float,
    budget: float,
    rounds: int,
    needed: float | None = None,
) -> Answer:
    """Two calls, timed in turns.

    Args:
      needed: seconds that the first needs at least.
      bound: what the first over the second must not exceed. A bound below one is shown as how many
        times as fast the first must be.
    """
    start = mark()
    timings = time_boxed(calls, budget, rounds)
    others = share_of_others(start)
    ours, theirs = (timing.median for timing in timings.values())
    ratio = ours / theirs
    shown = f"{ratio:.2f}x" if bound >= 1 else f"{1 / ratio:.1f}x as fast"
    promised = f"{bound:g}x" if bound >= 1 else f"{1 / bound:g}x as fast"
    texts = (f"{name} {1e3 * timing.median:.3g} ms" for name, timing in timings.items())
    seconds = {name: timing._asdict() for name, timing in timings.items()}
    figure = f"{shown} ({', '.join(texts)})"
    return Answer(question, figure, promised, ratio <= bound, seconds, others, needed)
