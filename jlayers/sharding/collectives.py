"""What a compiled program sends between devices, and how much it computes, read from its text.

How to read this file: ``traffic`` adds up the computations of a program from its entry on, a loop's
body as often as the loop runs. ``_Computation`` is what one of them has of its own; the patterns
are those of XLA's text. That of the compiler for TPUs differs: a loop's length is in its condition,
and a collective may occur in several fusions, one of which starts it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_KINDS = ["all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"]
_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "f8e4m3fn": 1, "f8e5m2": 1, "s16": 2,
    "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
    "c64": 8, "c128": 16,
}  # fmt: skip
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*|)\{$")
# The first name with an opening parenthesis behind a space is the operation: types have none.
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_SHAPE = re.compile(r"([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:to_apply|calls|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"\b(stride|pad|lhs_dilate|rhs_dilate)=([\dx_\-]+)")
_OPERAND = re.compile(r"%([\w.\-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_NUMBER = re.compile(r"(\d+)\)")
# Of one collective in several fusions, which run beside each other.
_CHAIN = re.compile(r"channel_id=(\d+).*chain_id=")
# Their starts return their operands before their results, and perhaps counters after them.
_WITH_OPERANDS = ("all-gather-start", "collective-permute-start")


class Traffic(NamedTuple):
    """What one device does in one run of a program.

    Attributes:
      collectives: how many there are, by kind.
      bytes: that one device receives as the results of them, by kind.
      flops: of matrix products and convolutions, two for each multiplication.
      loops_unknown: whether the text does not say how often some loop runs; it counts once.
    """

    collectives: dict[str, int]
    bytes: dict[str, float]
    flops: float
    loops_unknown: bool


@dataclasses.dataclass
class _Computation:
    count: Counter[str] = dataclasses.field(default_factory=Counter)
    bytes: dict[str, float] = dataclasses.field(default_factory=dict)
    flops: float = 0.0
    # (name, how often it runs), or the name of the condition of a loop that does not say.
    calls: list[tuple[str, int | str]] = dataclasses.field(default_factory=list)
    # As a condition: (n, k) for i < n, where i is the entry k of what the loop carries.
    limit: tuple[int, int] | None = None
    # As a body: by how much an entry grows.
    steps: dict[int, int] = dataclasses.field(default_factory=dict)


def traffic(text: str) -> Traffic:
    """The collectives and the products of a compiled program.

    Args:
      text: ``compiled.as_text()``.

    >>> import jax, jax.numpy as jnp
    >>> compiled = jax.jit(lambda a: a @ a).lower(jnp.ones((4, 4))).compile()
    >>> found = traffic(compiled.as_text())
    >>> found.collectives, found.flops
    ({}, 128.0)
    """
    entry, computations = _parse(text)
    known: dict[str, Traffic] = {}

    def total(name: str) -> Traffic:
        if name in known:
            return known[name]
        own = computations.get(name, _Computation())
        count, size, flops, unknown = Counter(own.count), dict(own.bytes), own.flops, False
        for called, often in own.calls:
            inside, times = total(called), often
            if isinstance(times, str):
                limit = computations.get(times, _Computation()).limit
                unknown |= limit is None and bool(inside.flops or inside.collectives)
                number, entry_ = limit or (1, 0)
                step = computations[called].steps.get(entry_, 1) if limit else 1
                times = -(-number // step)
            for kind in inside.collectives:
                count[kind] += times * inside.collectives[kind]
                size[kind] = size.get(kind, 0.0) + times * inside.bytes[kind]
            flops += times * inside.flops
            unknown |= inside.loops_unknown
        known[name] = Traffic(dict(count), size, flops, unknown)
        return known[name]

    return total(entry)


def _parse(text: str) -> tuple[str, dict[str, _Computation]]:
    entry, found = "", {}
    current, scatters = _Computation(), False
    shapes: dict[str, str] = {}
    constants: dict[str, int] = {}
    entries: dict[str, int] = {}
    sums: dict[str, list[str]] = {}
    chains: set[str] = set()
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current, shapes, constants, entries, sums = _Computation(), {}, {}, {}, {}
            found[head[2]] = current
            entry = head[2] if head[1] else entry
            # How the compiler for TPUs writes a reduce-scatter.
            scatters = head[2].startswith("all-reduce-scatter")
        elif match := _LINE.match(line):
            name, shape, operation, rest = match.groups()
            shapes[name] = shape
            chain = _CHAIN.search(rest)
            if operation == "constant" and (number := _NUMBER.match(rest)):
                constants[name] = int(number[1])
            elif operation == "compare" and "direction=LT" in rest:
                counter, number_of = _OPERAND.findall(rest)[:2]
                if number_of in constants:
                    current.limit = constants[number_of], entries.get(counter, 0)
            elif operation == "get-tuple-element" and (index := _INDEX.search(rest)):
                entries[name] = int(index[1])
            elif operation == "add":
                sums[name] = _OPERAND.findall(rest)[:2]
            elif operation == "tuple":
                # The last one of a body is what the loop carries on.
                after = enumerate(_OPERAND.findall(rest.split("),")[0]))
                current.steps = {
                    i: constants[sums[one][1]]
                    for i, one in after
                    if one in sums and entries.get(sums[one][0]) == i and sums[one][1] in constants
                }
            elif scatters and operation in ("all-reduce", "dynamic-slice"):
                if operation == "dynamic-slice":
                    _add(current, shape, "reduce-scatter", rest, shapes)
            elif chain is None or chain[1] not in chains:
                _add(current, shape, operation, rest, shapes)
            if chain is not None:
                chains.add(chain[1])
    return entry, found


def _add(own: _Computation, shape: str, operation: str, rest: str, shapes: dict[str, str]) -> None:
    kind = operation.removesuffix("-start")
    if kind in _KINDS:
        own.count[kind] += 1
        own.bytes[kind] = own.bytes.get(kind, 0.0) + _received(shape, operation)
    elif operation in ("dot", "convolution"):
        own.flops += _flops(shape, operation, rest, shapes)
    often: int | str = 1
    if operation == "while":
        known, condition = _TRIPS.search(rest), _CONDITION.search(rest)
        often = int(known[1]) if known else condition[1] if condition else ""
    # The end of a pair names the computation that its start has called.
    ended = operation.endswith(("-done", "-update"))
    if not ended and kind not in ("all-reduce", "reduce-scatter"):
        own.calls += [(called, often) for called in _CALLED.findall(rest)]
    # Of a choice one branch runs: the first, as all are alike in what they send.
    if branches := _BRANCHES.search(rest):
        own.calls.append((branches[1].split(",")[0].strip().lstrip("%"), 1))


def _received(shape: str, operation: str) -> float:
    sizes = list(_sizes(shape))
    if operation not in _WITH_OPERANDS:
        return sum(sizes)
    if operation == "collective-permute-start":
        sizes = sizes[:2]
    return sum(sizes[len(sizes) // 2 :])


def _sizes(shape: str) -> Iterator[float]:
    for kind, dims in _SHAPE.findall(shape):
        if kind in _BYTES:
            yield _BYTES[kind] * _elements(dims)


def _elements(dims: str) -> int:
    return math.prod(int(size) for size in dims.split(",") if size)


def _flops(shape: str, operation: str, rest: str, shapes: dict[str, str]) -> float:
    """Of a convolution those that meet the input: not padding, nor the zeros of a dilated one.

    XLA for TPU writes products of batches of matrices as such convolutions.
    """
    out = sum(_elements(dims) for _, dims in _SHAPE.findall(shape))
    operands = [_shape_of(one, shapes) for one in _OPERAND.findall(rest.split("),")[0])[:2]]
    if len(operands) < 2:
        return 0.0
    if operation == "dot":
        contracted = _CONTRACTED.search(rest)
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2.0 * out * math.prod(operands[0][axis] for axis in axes)
    labels = _LABELS.search(rest)
    if labels is None or len(labels[2]) != len(operands[1]):
        return 0.0
    shapes_of = (*operands, _shape_of("", {"": shape}))
    sizes = [
        dict(zip(*pair, strict=False)) for pair in zip(labels.groups(), shapes_of, strict=True)
    ]
    window = dict(_WINDOW.findall(rest))
    products: float = 2.0 * out * sizes[1]["i"]
    for axis in range(len(labels[2]) - 2):
        length, kernel, result = (size[str(axis)] for size in sizes)
        places = np.arange(result)[:, None] * _at(window, "stride", axis)
        places = places + np.arange(kernel) * _at(window, "rhs_dilate", axis)
        places = places - _at(window, "pad", axis, default=0)
        spread = _at(window, "lhs_dilate", axis)
        met = (places >= 0) & (places < length * spread) & (places % spread == 0)
        products = products * int(met.sum()) / max(result, 1)
    return products


def _at(window: dict[str, str], name: str, axis: int, default: int = 1) -> int:
    """The first number of a convolution's window along an axis, as in ``pad=0_0x3_3``."""
    return int(window[name].split("x")[axis].split("_")[0]) if name in window else default


def _shape_of(name: str, shapes: dict[str, str]) -> list[int]:
    found = _SHAPE.search(shapes.get(name, ""))
    return [int(size) for size in found[2].split(",") if size] if found else []
