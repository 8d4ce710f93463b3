"""What a compiled program sends between devices: read from its HLO, per device and call."""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# The type of a pair's start holds its operands before its results.
_WITH_OPERANDS = ("all-gather-start", "collective-permute-start")
_CALLED = r"(?:calls|to_apply|body|condition|(?:true|false|branch|called)_computations?)="


class Traffic(NamedTuple):
    """Collectives of one kind.

    Args:
      count: how many run in one call of the program; an operation in a loop counts at each turn.
      bytes: the sum of the arrays that they combine, on one device. Of an array that is scattered
        or gathered it is the whole.
    """

    count: int
    bytes: int


class _Instruction(NamedTuple):
    name: str
    type: str
    op: str
    operands: list[str]
    called: list[str]
    line: str


def collectives(text: str) -> dict[str, Traffic]:
    """The traffic of a program by kind, from ``compiled.as_text()``.

    All branches of a conditional count, since which of them runs is not known.

    Raises:
      ValueError: where a loop with a collective in it does not say how often it turns.

    >>> text = '''
    ... ENTRY %main (x: f32[2,8]) -> f32[2,8] {
    ...   %x = f32[2,8]{1,0} parameter(0)
    ...   ROOT %sum = f32[2,8]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
    ... }
    ... '''
    >>> collectives(text)
    {'all-reduce': Traffic(count=1, bytes=64)}
    """
    computations = dict(_computations(text))
    entry = next(name for name in computations if name.startswith("ENTRY "))
    totals: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for kind, times, size in _walk(computations, entry, 1):
        totals[kind][0] += times
        totals[kind][1] += times * size
    return {kind: Traffic(*totals[kind]) for kind in sorted(totals)}


def _walk(
    computations: dict[str, list[_Instruction]], name: str, times: int
) -> Iterator[tuple[str, int, int]]:
    """(kind, how often it runs, bytes) of each collective in a computation and those it calls."""
    types = {instruction.name: instruction.type for instruction in computations[name]}
    for instruction in computations[name]:
        kind = instruction.op.removesuffix("-start")
        if kind in KINDS:
            yield kind, times, _bytes_combined(instruction, types)
        # The end of a pair names the computation that its start has called.
        elif not instruction.op.endswith(("-done", "-update")):
            inside = [
                found for called in instruction.called for found in _walk(computations, called, 1)
            ]
            turns = _turns(instruction, computations) if inside else 1
            yield from ((kind, times * turns * count, size) for kind, count, size in inside)


def _bytes_combined(instruction: _Instruction, types: dict[str, str]) -> int:
    if instruction.op in _WITH_OPERANDS:
        return _bytes(_elements(instruction.type)[1])
    operands = sum(_bytes(types[name]) for name in instruction.operands)
    return max(operands, _bytes(instruction.type))


def _turns(instruction: _Instruction, computations: dict[str, list[_Instruction]]) -> int:
    """How often an instruction runs what it calls."""
    if instruction.op != "while":
        return 1
    if known := re.search(r"known_trip_count\W+n\W+(\d+)", instruction.line):
        return int(known[1])
    # XLA for TPU drops that note, and keeps the condition as JAX writes it: i < n, from i = 0.
    condition = re.search(r"condition=%?([\w.-]+)", instruction.line)
    inside = {i.name: i for i in computations[condition[1]]} if condition else {}
    for compare in inside.values():
        if compare.op == "compare" and "direction=LT" in compare.line:
            constant = inside[compare.operands[1]]
            if found := re.search(r"\bconstant\((\d+)\)", constant.line):
                return int(found[1])
    raise ValueError(
        f"the loop {instruction.name} must say how often it turns, since there are collectives "
        f"in it; got\n  {instruction.line}"
    )


def _computations(text: str) -> Iterator[tuple[str, list[_Instruction]]]:
    name, instructions = "", []
    for line in text.splitlines():
        if opened := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            name, instructions = (opened[1] or "") + opened[2], []
        elif line.startswith("}"):
            yield name, instructions
        elif instruction := _instruction(line):
            instructions.append(instruction)


def _instruction(line: str) -> _Instruction | None:
    named = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)
    if named is None:
        return None
    start = named.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    call = re.match(r" ([\w-]+)\(", line[end:])
    assert call is not None, line
    close = _closing(line, end + call.end() - 1)
    operands = re.findall(r"%([\w.-]+)", line[end + call.end() : close])
    called = re.findall(_CALLED + r"(\{[^}]*\}|%?[\w.-]+)", line[close:])
    names = [name for group in called for name in re.findall(r"[\w.-]+", group)]
    return _Instruction(named[1], line[start:end], call[1], operands, names, line)


def _closing(text: str, start: int) -> int:
    """Where the bracket closes that opens at ``start``."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if not depth:
            return i
    raise ValueError(f"a bracket is not closed: {text[start:]}")


def _elements(type_text: str) -> list[str]:
    """The types in a tuple's."""
    elements, depth = [""], 0
    for character in type_text[1:-1]:
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            elements.append("")
        else:
            elements[-1] += character
    return elements


def _bytes(type_text: str) -> int:
    """The bytes of an array, or of all arrays of a tuple."""
    total = 0
    for dtype, sizes in re.findall(r"\b([a-z]+\d*\w*)\[([\d,]*)\]", type_text):
        width = re.search(r"\d+", dtype)
        bits = int(width[0]) if width else 8 * (dtype == "pred")
        total += -(-math.prod(int(size) for size in sizes.split(",") if size) * bits // 8)
    return total
