"""What is timed: a row in one framework and one mode, as a program that is ready to be called."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from .data import Data
from .ops import OPS
from .row import Row

MODES = ("forward", "gradient")


class Program(NamedTuple):
    """A program that is ready to be timed.

    Args:
      run: so many calls, one by default, one queued after the other; it waits for the last.
      disagrees: runs it and says where its results are wrong; None where they are right.
      trace, compile: seconds that these took; None where a framework does not compile.
      temp_bytes: what the executable allocates for a call besides its arguments and results.
      digest: of the compiled program without its names; equal digests mean the same program.
    """

    run: Callable[..., Any]
    disagrees: Callable[[float], str | None]
    trace: float | None = None
    compile: float | None = None
    temp_bytes: int | None = None
    digest: str | None = None


class Task(NamedTuple):
    """What an implementation has to compute: a row's data in one of the ``MODES``."""

    row: Row
    mode: str
    data: Data

    def expected(self, y: Any, convert: Callable[[Any], Any]) -> Any:
        """The right results: y, and by mode the gradients of parameters and input.

        Args:
          y: what was computed, for operations where the right result depends on it (dropout).
          convert: takes canonical gradients to the framework's own parameters.
        """
        data, judge = self.data, OPS[self.row.op].judge
        right, x_gradient = data.y, data.x_gradient
        if judge is not None:
            right, x_gradient = judge(self.row, data.x, data.cotangent, y)
        if self.mode == "forward":
            return (right,)
        return right, convert(data.weight_gradients), x_gradient


class Implementation(Protocol):
    """A row in one framework."""

    def program(self, task: Task) -> Program:
        """Traces and compiles it where the framework compiles."""

    @staticmethod
    def chain(parts: Sequence[Any]) -> Any:
        """Implementations in the same framework, one after the other; the weights are a tuple."""
