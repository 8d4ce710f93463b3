"""What a compiled program sends between devices, and how much it computes, read from its text.

How to read this file: ``traffic`` walks the computations of a program from its entry on, a loop's
body as often as the loop runs. ``_Computation`` is what one of them has of its own; the patterns
are those of XLA's text, which is the same for all platforms.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

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
_OPERAND = re.compile(r"%([\w.\-]+)")


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
    # (name, how often it runs), and whether all of these numbers are known.
    calls: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    unknown: bool = False


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
    count: Counter[str] = Counter()
    size: dict[str, float] = {}
    flops, unknown = 0.0, False
    # A computation may be called from several places: each call counts.
    todo = [(entry, 1)]
    while todo:
        name, times = todo.pop()
        own = computations.get(name)
        if own is None:
            continue
        for kind, number in own.count.items():
            count[kind] += times * number
            size[kind] = size.get(kind, 0.0) + times * own.bytes[kind]
        flops += times * own.flops
        unknown |= own.unknown
        todo += [(called, times * often) for called, often in own.calls]
    return Traffic(dict(count), size, flops, unknown)


def _parse(text: str) -> tuple[str, dict[str, _Computation]]:
    entry, found = "", {}
    current = _Computation()
    shapes: dict[str, str] = {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            current, shapes = _Computation(), {}
            found[head[2]] = current
            entry = head[2] if head[1] else entry
        elif match := _LINE.match(line):
            name, shape, operation, rest = match.groups()
            shapes[name] = shape
            _add(current, shape, operation, rest, shapes)
    return entry, found


def _add(own: _Computation, shape: str, operation: str, rest: str, shapes: dict[str, str]) -> None:
    kind = operation.removesuffix("-start")
    if kind in _KINDS:
        own.count[kind] += 1
        sizes = list(_sizes(shape))
        # A start returns its operand too, before its result.
        results = sizes[len(sizes) // 2 :] if kind != operation else sizes
        own.bytes[kind] = own.bytes.get(kind, 0.0) + sum(results)
    elif operation in ("dot", "convolution"):
        own.flops += _flops(shape, operation, rest, shapes)
    trips = 1
    if operation == "while":
        known = _TRIPS.search(rest)
        trips, own.unknown = (int(known[1]), own.unknown) if known else (1, True)
    if operation != "all-reduce" and operation != "reduce-scatter":
        own.calls += [(called, trips) for called in _CALLED.findall(rest)]
    # Of a choice one branch runs: the first, as all are alike in what they send.
    if branches := _BRANCHES.search(rest):
        own.calls.append((branches[1].split(",")[0].strip().lstrip("%"), 1))


def _sizes(shape: str) -> Iterator[float]:
    for kind, dims in _SHAPE.findall(shape):
        if kind in _BYTES:
            yield _BYTES[kind] * _elements(dims)


def _elements(dims: str) -> int:
    return math.prod(int(size) for size in dims.split(",") if size)


def _flops(shape: str, operation: str, rest: str, shapes: dict[str, str]) -> float:
    out = sum(_elements(dims) for _, dims in _SHAPE.findall(shape))
    operands = [_shape_of(one, shapes) for one in _OPERAND.findall(rest.split("),")[0])[:2]]
    if len(operands) < 2:
        return 0.0
    if operation == "dot":
        contracted = _CONTRACTED.search(rest)
        axes = [int(axis) for axis in contracted[1].split(",") if axis] if contracted else []
        return 2.0 * out * math.prod(operands[0][axis] for axis in axes)
    labels = re.search(r"dim_labels=\w+_(\w+)->", rest)
    kernel = operands[1]
    if labels is None or len(labels[1]) != len(kernel):
        return 0.0
    # Each output is a sum over the kernel, but for the axis of output features.
    return 2.0 * out * math.prod(kernel) / max(kernel[labels[1].index("o")], 1)


def _shape_of(name: str, shapes: dict[str, str]) -> list[int]:
    found = _SHAPE.search(shapes.get(name, ""))
    return [int(size) for size in found[2].split(",") if size] if found else []
