"""Blocks: parts of a picture that are put below each other, side by side and into frames.

How to read this file: a ``Block`` has its boxes and lines, a size, and one x at which it is entered
at the top and left at the bottom. Each function makes a block, of a text or of other blocks, which
are moved and never changed. All lengths are in pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence, Set

# Of a character of the font, which has one width for all.
_CHARACTER, LINE = 6.7, 14.0
_PAD, _GAP, _LANE, _HEAD = 10.0, 34.0, 26.0, 20.0
# With turns of lines above and below a label.
_WIDE_GAP = 46.0
Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle with lines of text.

    Attributes:
      kind: "layer", "frame" (around other boxes, its text at the top), or "merge".
    """

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]
    kind: str = "layer"


@dataclasses.dataclass(frozen=True)
class Line:
    """A line with corners.

    Attributes:
      arrow: whether it ends in one.
      label: beside its last part.
    """

    points: tuple[Point, ...]
    arrow: bool = True
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Block:
    """Boxes and lines in a rectangle from (0, 0).

    Attributes:
      axis: the x at which the block is entered and left.
      through: whether lines come in and go out there.
    """

    width: float
    height: float
    axis: float
    boxes: tuple[Box, ...] = ()
    lines: tuple[Line, ...] = ()
    through: bool = True

    def moved(self, dx: float, dy: float) -> Block:
        boxes = (dataclasses.replace(box, x=box.x + dx, y=box.y + dy) for box in self.boxes)
        lines = (
            dataclasses.replace(line, points=tuple((x + dx, y + dy) for x, y in line.points))
            for line in self.lines
        )
        return dataclasses.replace(
            self, axis=self.axis + dx, boxes=tuple(boxes), lines=tuple(lines)
        )


def text_width(text: str) -> float:
    return _CHARACTER * len(text)


def box(lines: Sequence[str], kind: str = "layer") -> Block:
    """One box around its text."""
    shown = tuple(line for line in lines if line)
    width = max([text_width(line) for line in shown] + [2 * _PAD]) + 2 * _PAD
    height = LINE * max(len(shown), 1) + _PAD
    return Block(width, height, width / 2, (Box(0, 0, width, height, shown, kind),))


def column(blocks: Sequence[Block], labels: Sequence[str]) -> Block:
    """Blocks below each other, joined by arrows; a label for each arrow."""
    if not blocks:
        return Block(2 * _PAD, _GAP, _PAD, (), (Line(((_PAD, 0), (_PAD, _GAP)), False),))
    axis = max(block.axis for block in blocks)
    right = max(block.width - block.axis for block in blocks)
    # Labels are to the right of the axis.
    right = max([right, *(text_width(label) + _PAD for label in labels)])
    placed, lines, y = [], [], 0.0
    for i, block in enumerate(blocks):
        if i:
            lines.append(Line(((axis, y), (axis, y + _GAP)), True, labels[i - 1]))
            y += _GAP
        placed.append(block.moved(axis - block.axis, y))
        y += block.height
    return _joined(axis + right, y, axis, placed, lines)


def lanes(blocks: Sequence[Block], labels: Sequence[str], merge: str | None) -> Block:
    """Blocks side by side between a fork and the box of a merge.

    Args:
      labels: at the entrance of each lane.
      merge: the text of the merge; None where the outputs stay apart.
    """
    widths = [
        max(block.width, block.axis + text_width(label) + _PAD)
        for block, label in zip(blocks, labels, strict=True)
    ]
    starts = [sum(widths[:i]) + i * _LANE for i in range(len(blocks))]
    width = starts[-1] + widths[-1]
    axes = [start + block.axis for start, block in zip(starts, blocks, strict=True)]
    axis = (axes[0] + axes[-1]) / 2
    top, bottom = _GAP / 4 + _GAP, max(block.height for block in blocks) + _GAP / 4 + _GAP
    joint = bottom + _GAP / 4
    placed = [block.moved(start, top) for start, block in zip(starts, blocks, strict=True)]
    lines = [Line(((axis, 0), (axis, _GAP / 4)), False)]
    for block, x, label in zip(blocks, axes, labels, strict=True):
        lines.append(Line(((axis, _GAP / 4), (x, _GAP / 4), (x, top)), True, label))
        lines.append(Line(((x, top + block.height), (x, joint), (axis, joint)), False))
    if merge is None:
        return _joined(width, joint, axis, placed, lines)
    end = box([merge], "merge")
    lines.append(Line(((axis, joint), (axis, joint + _GAP / 2)), True))
    # A merge wider than all lanes widens the block on both sides.
    shift = max(end.axis - axis, 0.0)
    placed = [block.moved(shift, 0) for block in [*placed, Block(0, 0, 0, (), tuple(lines))]]
    placed.append(end.moved(axis + shift - end.axis, joint + _GAP / 2))
    width = max(width + shift, axis + shift + end.width - end.axis)
    return _joined(width, joint + _GAP / 2 + end.height, axis + shift, placed, [])


def bypass(block: Block, label: str, merge: str) -> Block:
    """A block with a line around it, from above it to the box of a merge below."""
    top = _GAP / 4 + _GAP
    end = box([merge], "merge")
    y = top + block.height + _GAP / 2
    axis = max(block.axis, end.axis)
    inner = block.moved(axis - block.axis, top)
    right = axis + max(block.width - block.axis, text_width(label) + _PAD, end.width / 2) + _LANE
    lines = [
        Line(((axis, 0), (axis, top)), True, label),
        Line(((axis, top + block.height), (axis, y)), True),
        Line(
            (
                (axis, _GAP / 4),
                (right, _GAP / 4),
                (right, y + end.height / 2),
                (axis + end.width / 2, y + end.height / 2),
            ),
            True,
        ),
    ]
    return _joined(
        right + _PAD, y + end.height, axis, [inner, end.moved(axis - end.axis, y)], lines
    )


def frame(block: Block, title: str) -> Block:
    """A block in a box of its own, with a title."""
    left = max(_PAD, text_width(title) + 2 * _PAD - block.axis)
    width = max(left + block.width + _PAD, text_width(title) + 2 * _PAD)
    # The line comes in from above, beside the title.
    top, height = _HEAD + _PAD, block.height + _HEAD + 2 * _PAD
    axis = left + block.axis
    lines = [
        Line(((axis, 0), (axis, top)), False),
        Line(((axis, top + block.height), (axis, height)), False),
    ]
    if not block.through:
        lines = []
    around = Block(width, height, axis, (Box(0, 0, width, height, (title,), "frame"),))
    return _joined(width, height, axis, [around, block.moved(left, top)], lines)


def _joined(
    width: float, height: float, axis: float, blocks: Iterable[Block], lines: Iterable[Line]
) -> Block:
    given = list(blocks)
    boxes = tuple(box for block in given for box in block.boxes)
    own = tuple(line for block in given for line in block.lines)
    return Block(width, height, axis, boxes, (*own, *lines))


def stack(blocks: Sequence[Block]) -> Block:
    """Blocks below each other without lines between them, where it is not known how they join."""
    axis, y = max(block.axis for block in blocks), 0.0
    made = []
    for block in blocks:
        made.append(block.moved(axis - block.axis, y))
        y += block.height + _PAD
    width = axis + max(block.width - block.axis for block in blocks)
    return dataclasses.replace(_joined(width, y - _PAD, axis, made, []), through=False)


def wired(
    blocks: Sequence[Block], labels: Sequence[str], sources: Sequence[Set[int]], out: Set[int]
) -> Block:
    """Blocks below each other, in the order of calls; a line for each value that one takes.

    Args:
      labels: at the entrance of each block.
      sources: for each block, the numbers of those whose outputs it takes; -1 for the input.
      out: the same for the output.
    """
    axis = max(block.axis for block in blocks)
    right = max(block.width - block.axis for block in blocks)
    right = axis + max([right, *(text_width(label) + _PAD for label in labels)])
    # Of each gap its upper end and its lower one.
    placed, gaps, y = [], [], 0.0
    for block in blocks:
        gaps.append((y, y + _WIDE_GAP))
        placed.append(block.moved(axis - block.axis, y + _WIDE_GAP))
        y += _WIDE_GAP + block.height
    gaps.append((y, y + _GAP))
    lines, lane = [], right
    for target, given in enumerate([*sources, out]):
        top, bottom = gaps[target]
        arrow = target < len(blocks)
        if given:
            start = top if target - 1 in given else bottom - _GAP / 4
            lines.append(Line(((axis, start), (axis, bottom)), arrow))
        if arrow:
            # A point, so that the text is between the turns of other lines.
            middle = (axis, (top + bottom) / 2)
            lines.append(Line((middle, middle), False, labels[target]))
        for source in sorted(given - {target - 1}, reverse=True):
            start, end = gaps[source + 1][0] + _GAP / 4, bottom - _GAP / 4
            lane += _PAD
            points = ((axis, start), (lane, start), (lane, end), (axis, end))
            lines.append(Line(points, False))
            # The way down to the turn, where no arrow goes.
            if source + 1 < target and source not in [*sources, out][source + 1]:
                lines.append(Line(((axis, gaps[source + 1][0]), (axis, start)), False))
    return _joined(lane + _PAD, y + _GAP, axis, placed, lines)
