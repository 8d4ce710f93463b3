"""Which call of which layer was the first to produce a non-finite value.

How to read this file: a ``Call`` reads what the probes measured in one call of one layer, and
``Call.calls`` gives those inside it, in order. ``first_forward`` and ``first_backward`` go down
from the model's own call to the innermost one to blame; ``_first`` is the rule for one level.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from ...base.parameters import entry_of
from ...base.types import PyTree
from .measure import HIGH, INF, LOW, NAN
from .probes import Node


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer, with all measurements in it.

    Attributes:
      node: the layer.
      number: of the call, of those that share their parameters.
      copies: (index, count) for each ``repeat`` and ``ensemble`` around it, outermost first.
      fold: how many steps ``each_step`` has put into each row of the batch.
      forward, backward: the measurements of this layer and of those inside it.
    """

    node: Node
    number: int
    copies: tuple[tuple[int, int], ...]
    fold: int
    forward: PyTree
    backward: PyTree

    def seen(self, way: str, what: str) -> np.ndarray[Any, Any]:
        """The measurement of ``"input"``, ``"output"`` or ``"params"``, ``"forward"`` or back."""
        return whole(self.by_row(way, what))

    def by_row(self, way: str, what: str) -> np.ndarray[Any, Any]:
        """The same for each row of the batch."""
        tree = self.forward if way == "forward" else self.backward
        index = (*(i for i, _ in self.copies), self.number)
        return tree[self.node.entry][what][index]  # type: ignore[no-any-return]

    def finite(self, way: str, what: str) -> bool:
        """Whether all measured values are finite."""
        return is_finite(self.by_row(way, what))

    def calls(self) -> list[Call]:
        """The calls of its children, in the order in which they ran."""
        found: list[tuple[tuple[int, int], Call]] = []
        for name, child in self.node.children.items():
            forward, backward = entry_of(self.forward, name), entry_of(self.backward, name)
            order = forward[child.entry]["order"]
            first, end = self.node.spans[self.number][name]
            stacked = order.ndim > len(self.copies) + 1
            count = order.shape[len(self.copies)] if stacked else 1
            for copy in range(count):
                copies = (*self.copies, (copy, count)) if stacked else self.copies
                for number in range(first, end):
                    call = Call(child, number, copies, self.fold, forward, backward)
                    time = int(order[(*(i for i, _ in copies), number)])
                    found.append(((copy, time), call._folded(self)))
        # Copies of a stack were traced once, so they have one time; they run in their own order.
        return [call for _, call in sorted(found, key=lambda item: item[0])]

    def _folded(self, parent: Call) -> Call:
        # Nothing but the sizes says that steps were folded into the batch: the inner first axis is
        # then the product of the outer two, and the child a transparent one.
        inside, around = (_lead(c.node.inputs[c.number]) for c in (self, parent))
        folds = len(around) > 1 and len(inside) > 0 and inside[0] == around[0] * around[1]
        own_name = parent.node.children.get("") is self.node
        return dataclasses.replace(self, fold=self.fold * around[1]) if folds and own_name else self

    def gradient_finite(self) -> bool:
        """Whether the gradients of its parameters, and of those of the layers inside, are."""
        return self.finite("backward", "params") and all(
            call.gradient_finite() for call in self.calls()
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Blamed:
    """The innermost call that turned finite values into non-finite ones.

    Attributes:
      call: of the layer.
      child: of a layer that did so between its children: the one whose input, or in the backward
        pass whose output's gradient, was the first that was not finite. None at its end.
    """

    call: Call
    child: Call | None = None


def first_forward(call: Call) -> Blamed:
    """The first layer in a call whose input is finite and whose output is not."""
    calls = call.calls()
    seen = [(c.finite("forward", "input"), c.finite("forward", "output")) for c in calls]
    at, broke = _first(seen)
    if at is None:
        return Blamed(call)
    return first_forward(calls[at]) if broke else Blamed(call, calls[at])


def first_backward(call: Call, needed: bool) -> Blamed:
    """The first layer in the backward pass that turns a finite gradient into a non-finite one.

    Args:
      call: such a call.
      needed: whether the gradient of its input is used.
    """
    calls = call.calls()
    given = [c.finite("backward", "output") for c in calls]
    needed = needed and not call.finite("backward", "input")
    needed = needed or not call.finite("backward", "params")
    # A gradient of what depends on no parameter is not used, so it does no harm.
    used = [needed or not all(given[:i]) for i in range(len(calls))]
    made = [
        c.gradient_finite() and not (used[i] and not c.finite("backward", "input"))
        for i, c in enumerate(calls)
    ]
    # Reversed: the backward pass comes to the last call first.
    at, broke = _first(list(zip(given[::-1], made[::-1], strict=True)))
    if at is None:
        return Blamed(call)
    at = len(calls) - 1 - at
    return first_backward(calls[at], used[at]) if broke else Blamed(call, calls[at])


def _first(events: list[tuple[bool, bool]]) -> tuple[int | None, bool]:
    """The first event that makes finite values non-finite, or whose input is non-finite.

    One that turns an infinity into finite values has dealt with it, as a softmax does with masked
    scores: events before it are not the cause, unless there is no other.

    Args:
      events: (what it takes is finite, what it gives is finite) for each, in order.

    Returns:
      Its index, or None, and whether it is one that breaks.
    """
    # A value that a later event makes finite again cannot be what made the loss non-finite.
    healed = max((i for i, (takes, gives) in enumerate(events) if gives and not takes), default=-1)
    taken: int | None = None
    for start in dict.fromkeys((healed + 1, 0)):
        for i, (takes, gives) in enumerate(events[start:], start):
            if takes and not gives:
                return i, True
            if not takes:
                taken = i if taken is None else taken
                break
    return taken, False


def whole(measurement: Any) -> np.ndarray[Any, Any]:
    """A measurement of all rows together, (4,)."""
    # In NumPy: measurements are read one by one, and each would be a program of JAX's.
    m = np.asarray(measurement)
    nan, inf = m[:, NAN].sum(), m[:, INF].sum()
    return np.stack([nan, inf, m[:, LOW].min(), m[:, HIGH].max()])


def is_finite(measurement: Any) -> bool:
    """Whether all measured values are finite."""
    return not np.asarray(measurement)[:, [NAN, INF]].any()


def _lead(specs: PyTree) -> tuple[int, ...]:
    return next((tuple(leaf.shape[:2]) for leaf in jax.tree.leaves(specs)), ())
