"""Something to do on the GPU: prepared with others in threads, then finished alone."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

Result = dict[str, Any]
# Runs a function in a thread. They start in the order in which they were submitted, so a function
# may wait for one that was submitted before it.
Submit = Callable[[Callable[[], Any]], Future[Any]]


class Item(NamedTuple):
    """An entry of the plan.

    Args:
      group: whose file its results are stored in.
      what: all that they depend on besides the device and the versions, as JSON has it.
      seconds: about what it takes as one of many.
      prepare: submits what can be done in threads, which is compilation above all.
      finish: (what ``prepare`` gave, seconds to time a mode in, most calls) to results by names of
        rows, while nothing else runs.
    """

    group: str
    what: Any
    seconds: float
    prepare: Callable[[Submit], Any]
    finish: Callable[[Any, float, int], dict[str, Result]]
