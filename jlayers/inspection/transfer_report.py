"""What ``transfer`` moved from one model's arrays to another's, and what it did not."""

from __future__ import annotations

import dataclasses
from collections import Counter

from ..base.types import Spec
from .model_diff import Difference

# What a caller may have overlooked; the others are what was asked for.
_DIFFER = ("new", "changed", "left over")
_ALL = ("moved", "padded", "sliced", "new", "changed", "left over")


@dataclasses.dataclass(frozen=True, slots=True)
class TransferRow:
    """One array of the new model, or one of the old model that is left over.

    Attributes:
      status: ``"moved"``, ``"padded"``, ``"sliced"``, ``"new"``, ``"changed"`` (another shape, so
        new values) or ``"left over"``.
      path: in the new model; of what is left over, in the old one.
      sources: paths in the old model; several where copies were stacked.
      old, new: specs, None where there is none.
      in_state: whether it is an array of the state, and not of the parameters.
    """

    status: str
    path: str
    sources: tuple[str, ...] = ()
    old: Spec | None = None
    new: Spec | None = None
    in_state: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it was moved as it was, to the same path."""
        return self.status == "moved" and self.sources == (self.path,)

    def text(self) -> str:
        shapes = [_shape(spec) for spec in (self.old, self.new) if spec is not None]
        # A stack of n arrays, or one of the arrays of a stack.
        count = f"{len(self.sources)} x " if len(self.sources) > 1 else ""
        text = count + " -> ".join(dict.fromkeys(shapes))
        if self.status == "changed":
            text += ", new values"
        if self.sources and self.sources != (self.path,) and self.status != "left over":
            more = ", ..." if len(self.sources) > 1 else ""
            text += f", from {self.sources[0]}{more}"
        return text + ", state" * self.in_state


def _shape(spec: Spec) -> str:
    return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"


@dataclasses.dataclass(frozen=True, repr=False)
class TransferReport:
    """What became of every array; ``print`` has a line for each that did not simply move.

    Attributes:
      rows: all arrays, those of the new model first.
      hint: a ``rename=`` or another function that would move more, or None.
      differs: layers and arguments that differ where arrays were moved as they were: the same
        numbers may mean something else there, as with another ``num_heads`` or ``alpha``.
    """

    rows: tuple[TransferRow, ...]
    hint: str | None = None
    differs: tuple[Difference, ...] = ()

    @property
    def moved(self) -> tuple[str, ...]:
        """Paths of the new model whose values are old ones, padded and sliced ones among them."""
        return self._of("moved", "padded", "sliced")

    @property
    def new(self) -> tuple[str, ...]:
        """Paths that the old model does not have: they are initialised."""
        return self._of("new")

    @property
    def changed(self) -> tuple[str, ...]:
        """Paths of both models with different shapes: they are initialised."""
        return self._of("changed")

    @property
    def left_over(self) -> tuple[str, ...]:
        """Paths of the old model from which nothing was moved."""
        return self._of("left over")

    @property
    def complete(self) -> bool:
        """Whether all values of the new model are old ones, and none is left over."""
        return not self._of(*_DIFFER)

    def _of(self, *statuses: str) -> tuple[str, ...]:
        return tuple(row.path for row in self.rows if row.status in statuses)

    def summary(self) -> str:
        """The numbers of arrays, on one line."""
        counts = Counter(row.status for row in self.rows)
        return ", ".join(f"{counts[status]} {status}" for status in _ALL if counts[status])

    def lines(self, *, hint: bool = True) -> list[str]:
        """A line for each array that did not simply move, and one for the hint."""
        rows = [row for row in self.rows if not row.is_plain]
        width = max((len(row.path) for row in rows), default=0)
        lines = [f"{row.status:<9}  {row.path:<{width}}  {row.text()}" for row in rows]
        lines += [f"differs    {one.path or '(model)'}: {one}" for one in self.differs]
        return [*lines, f"hint: {self.hint}"] if hint and self.hint else lines

    def __str__(self) -> str:
        return "\n  ".join([self.summary() or "no arrays", *self.lines()])

    def __repr__(self) -> str:
        return f"<TransferReport {self.summary() or 'no arrays'}>"
