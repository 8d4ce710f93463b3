"""Plans of bodies: which of their arrays hold steps of which mask, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax

from ..base.sequence import Sequence
from ..base.types import PyTree

if TYPE_CHECKING:
    from ..base.dependence import Verdict

# What an array belongs to: the number of a mask, in the order in which they are met.
Keys = list[int | None]
# Instead of a key: a loss that the body adds, which no child takes.
LOSS = -1
Found = TypeVar("Found")


class Plan(NamedTuple):
    """Which arrays hold steps. A key is the number of a mask; None is an array without one.

    Attributes:
      inputs: the key of each Sequence in the body's input.
      calls: for each call of a child, the keys of the leaves of its input, and of its output.
      outputs: the keys of the leaves of the body's output.
      verdicts: what each leaf is made of, for each mask: of the inputs of the calls, call by call,
        and then of the outputs.
    """

    inputs: list[int]
    calls: list[tuple[Keys, Keys]]
    outputs: Keys
    verdicts: list[list[Verdict]]

    def leaves(self) -> Iterator[tuple[int | None, list[Verdict], bool]]:
        """Key and verdicts of each leaf, and whether it is of the body's output."""
        given = [key for keys, _ in self.calls for key in keys]
        for i, key in enumerate((*given, *self.outputs)):
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


def tried(function: Callable[..., Found], *arguments: Any) -> Found | None:
    try:
        return function(*arguments)
    except Exception:
        return None
