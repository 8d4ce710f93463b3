"""Plans of bodies: which of their arrays hold steps of which mask, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..base.errors import LayerError

if TYPE_CHECKING:
    from ..base.dependence import Verdict

# What an array belongs to: the number of a mask, in the order in which they are met.
Keys = list[int | None]
# Instead of a key: a loss that the body adds, which no child takes.
LOSS = -1
# And for a variable that the body sets in training.
STATE = -2
# As the call of a source: it is an input of the body.
INPUT = -1
Found = TypeVar("Found")


class Source(NamedTuple):
    """An array that enters the arithmetic of a body, from its input or from a child.

    Attributes:
      call: the number of the call that it is a result of, or ``INPUT``.
      leaf: its number there.
      key: of which mask it has the rows and steps; None for neither.
      masked: whether it is a Sequence.
    """

    call: int
    leaf: int
    key: int | None
    masked: bool


Sources = frozenset[Source]


class Plan(NamedTuple):
    """Which arrays hold steps. A key is the number of a mask; None is an array without one.

    Attributes:
      inputs: the keys of the leaves of the body's input.
      calls: for each call of a child, the keys of the leaves of its input, and of its output.
      outputs: the keys of the leaves of the body's output.
      verdicts: what each leaf is made of, for each mask: of the inputs of the calls, call by call,
        then of the outputs, and then of the variables that are set.
      variables: how many of these there are.
      inside: a child that is called inside a transformation, if there is one.
      sources: for each leaf, in the order of the verdicts, what is in it.
    """

    inputs: Keys
    calls: list[tuple[Keys, Keys]]
    outputs: Keys
    verdicts: list[list[Verdict]]
    variables: int = 0
    inside: str | None = None
    sources: tuple[Sources, ...] = ()

    def leaves(self) -> Iterator[tuple[int | None, list[Verdict], bool]]:
        """Key and verdicts of each leaf, and whether it is of the body's output."""
        given = [key for keys, _ in self.calls for key in keys]
        stated = [STATE] * self.variables
        for i, key in enumerate((*given, *self.outputs, *stated)):
            yield key, self.verdicts[i], i >= len(given)


class CalledInsideError(LayerError):
    """A child is called inside a transformation, where its input cannot be followed."""

    def __init__(self, name: str):
        super().__init__(
            f"the body calls its child {name!r} inside a transformation, such as jax.jit or "
            "lax.scan: what becomes of steps there is not known",
            expected="children called by the body itself",
            hint="jl.remat(layer) for jax.checkpoint, jl.repeat(layer, n) for a loop, jl.RNN(cell) "
            "or jl.causal(start, step) for a scan over time",
        )


class UndecidedError(LayerError):
    """An array has the steps of a Sequence and of an array, and comes from neither."""

    def __init__(self, what: str, got: str):
        super().__init__(
            f"the body {what} steps that come from none of its inputs: whether they are those of a "
            "Sequence, with its mask, or of the array beside it is not known",
            expected="steps of an input",
            got=got,
            hint="an input of the body for them: jl.Sequence(array, x.mask), or an array without "
            "padding",
        )


def tried(function: Callable[..., Found], *arguments: Any) -> Found | None:
    try:
        return function(*arguments)
    except (CalledInsideError, UndecidedError):
        raise
    except Exception:
        return None
