"""Plans of bodies: which of their arrays hold steps of which mask, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax

from ..base.errors import LayerError
from ..base.sequence import Sequence
from ..base.types import PyTree

if TYPE_CHECKING:
    from ..base.dependence import Verdict

# What an array belongs to: the number of a mask, in the order in which they are met.
Keys = list[int | None]
# Instead of a key: a loss that the body adds, which no child takes.
LOSS = -1
# And for a variable that the body sets in training.
STATE = -2
Found = TypeVar("Found")


class Plan(NamedTuple):
    """Which arrays hold steps. A key is the number of a mask; None is an array without one.

    Attributes:
      inputs: the key of each Sequence in the body's input.
      calls: for each call of a child, the keys of the leaves of its input, and of its output.
      outputs: the keys of the leaves of the body's output.
      verdicts: what each leaf is made of, for each mask: of the inputs of the calls, call by call,
        then of the outputs, and then of the variables that are set.
      variables: how many of these there are.
      inside: a child that is called inside a transformation, if there is one.
      behind: for each leaf, in the order of the verdicts, the calls without whose outputs that have
        no steps it would be another.
    """

    inputs: list[int]
    calls: list[tuple[Keys, Keys]]
    outputs: Keys
    verdicts: list[list[Verdict]]
    variables: int = 0
    inside: str | None = None
    behind: tuple[frozenset[int], ...] = ()

    def leaves(self) -> Iterator[tuple[int | None, list[Verdict], bool]]:
        """Key and verdicts of each leaf, and whether it is of the body's output."""
        given = [key for keys, _ in self.calls for key in keys]
        stated = [STATE] * self.variables
        for i, key in enumerate((*given, *self.outputs, *stated)):
            yield key, self.verdicts[i], i >= len(given)


def with_masks(tree: PyTree, keys: Keys, masks: Mapping[int, Sequence]) -> PyTree:
    """The tree with a Sequence for every leaf that has a key."""
    leaves, treedef = jax.tree.flatten(tree)
    return jax.tree.unflatten(
        treedef,
        [
            leaf if key is None else masks[key]._with(leaf)
            for leaf, key in zip(leaves, keys, strict=True)
        ],
    )


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


def tried(function: Callable[..., Found], *arguments: Any) -> Found | None:
    try:
        return function(*arguments)
    except CalledInsideError:
        raise
    except Exception:
        return None
