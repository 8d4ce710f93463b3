"""What is known of the numbers in an array of indices: enough to follow ``arange`` as an index.

How to read this file: ``x[arange(batch)[:, None], arange(time), ids]`` reads each step at its own
step, but only who knows what is in the indices can tell. ``know`` follows such counts through the
few operations between ``arange`` and a gather or scatter; after any other nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .domain import NOTHING, ONE, Known, Value
from .equation import Equation


def know(equation: Equation, operands: Sequence[Value]) -> Known:
    """What is known of the results of an equation."""
    rule = _RULES.get(equation.name)
    return NOTHING if rule is None else rule(equation, operands)


def _iota(equation: Equation, operands: Sequence[Value]) -> Known:
    counts = Known(counts=int(equation.fixed("dimension")))
    return counts if _holds_any_count(equation.fixed("dtype")) else NOTHING


def _broadcast(equation: Equation, operands: Sequence[Value]) -> Known:
    known = operands[0].known
    targets = [int(d) for d in equation.fixed("broadcast_dimensions")]
    if known.number is not None:
        return Known(number=known.number)
    if known.counts is None or len(operands) != 1:
        return NOTHING
    target = targets[known.counts]
    same = equation.operands[0][known.counts] == equation.results[0][target]
    return Known(counts=target) if same else NOTHING


def _reshape(equation: Equation, operands: Sequence[Value]) -> Known:
    """Only dimensions of length 1 come and go."""
    known, before, after = operands[0].known, equation.operands[0], equation.results[0]
    if known.number is not None:
        return Known(number=known.number)
    old = [d for d, size in enumerate(before) if size != ONE]
    new = [d for d, size in enumerate(after) if size != ONE]
    if known.counts not in old or [before[d] for d in old] != [after[d] for d in new]:
        return NOTHING
    if equation.params[0].get("dimensions") is not None and equation.name == "reshape":
        return NOTHING
    return Known(counts=new[old.index(known.counts)])


def _convert(equation: Equation, operands: Sequence[Value]) -> Known:
    known = operands[0].known
    kept = Known(number=known.number, counts=known.counts)
    return kept if _holds_any_count(equation.fixed("new_dtype")) else NOTHING


def _less(equation: Equation, operands: Sequence[Value]) -> Known:
    """A count is not negative: how NumPy's negative indices are told."""
    left, right = operands[0].known, operands[1].known
    if right.number is None or max(right.number) > 0 or min(right.number) < 0:
        return NOTHING
    if left.counts is not None or (left.number is not None and min(left.number) >= 0):
        return Known(number=(0, 0))
    return NOTHING


def _select(equation: Equation, operands: Sequence[Value]) -> Known:
    if operands[0].known.number != (0, 0):
        return NOTHING
    chosen = operands[1].known
    return Known(number=chosen.number, counts=chosen.counts)


def _concatenate(equation: Equation, operands: Sequence[Value]) -> Known:
    """Components of length 1 side by side are an index vector."""
    last = len(equation.results[0]) - 1
    if equation.fixed("dimension") != last or any(o[last] != ONE for o in equation.operands):
        return NOTHING
    return Known(columns=tuple(operands))


def _holds_any_count(dtype: Any) -> bool:
    # Narrower ones wrap round, and floats skip, in longer arrays than are traced here.
    return bool(dtype.kind in "iu" and dtype.itemsize >= 4)


_RULES: dict[str, Callable[[Equation, Sequence[Value]], Known]] = {
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "convert_element_type": _convert,
    "lt": _less,
    "select_n": _select,
    "concatenate": _concatenate,
}
