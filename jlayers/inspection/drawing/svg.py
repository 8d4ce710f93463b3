"""Blocks as SVG: valid XML, in colours that are legible on white and on black."""

from __future__ import annotations

import html
from collections.abc import Iterator

from .blocks import LINE, Block, Box, Line

_MARGIN = 12.0
_TEXT, _STROKE = "#7a7a7a", "#8a8a8a"
# Fill and opacity.
_FILLS = {"layer": ("#4a90d9", 0.18), "frame": ("#8a8a8a", 0.07), "merge": ("#d99a4a", 0.22)}
_FONT = 'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="11"'


def svg_text(block: Block, title: str) -> str:
    """The block as a document with a title for those who do not see it."""
    width, height = block.width + 2 * _MARGIN, block.height + 2 * _MARGIN
    moved = block.moved(_MARGIN, _MARGIN)
    # Frames first, as the boxes inside lie on them.
    boxes = sorted(moved.boxes, key=lambda box: box.kind != "frame")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" {_FONT}>',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="{_STROKE}"/>'
        "</marker></defs>",
        *(part for box in boxes if box.kind == "frame" for part in _box(box)),
        *(part for line in moved.lines for part in _line(line)),
        *(part for box in boxes if box.kind != "frame" for part in _box(box)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    """For XML, which has no control characters."""
    return html.escape("".join(c if c.isprintable() else " " for c in text))


def _box(box: Box) -> Iterator[str]:
    fill, opacity = _FILLS[box.kind]
    yield (
        f'<rect class="{box.kind}" x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.height:.1f}" rx="5" fill="{fill}" fill-opacity="{opacity}" '
        f'stroke="{_STROKE}"/>'
    )
    framed = box.kind == "frame"
    x = box.x + 8 if framed else box.x + box.width / 2
    top = box.y + LINE if framed else box.y + (box.height - LINE * len(box.lines)) / 2 + 11
    anchor = "start" if framed else "middle"
    for i, line in enumerate(box.lines):
        weight = ' font-weight="bold"' if i == 0 and (framed or len(box.lines) > 1) else ""
        yield (
            f'<text x="{x:.1f}" y="{top + i * LINE:.1f}" text-anchor="{anchor}" fill="{_TEXT}"'
            f"{weight}>{escape(line)}</text>"
        )


def _line(line: Line) -> Iterator[str]:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
    end = ' marker-end="url(#arrow)"' if line.arrow else ""
    yield (
        f'<polyline points="{points}" fill="none" stroke="{_STROKE}" stroke-linejoin="round"{end}/>'
    )
    if line.label:
        (_, above), (x, below) = line.points[-2:]
        yield (
            f'<text x="{x + 6:.1f}" y="{(above + below) / 2 + 4:.1f}" fill="{_TEXT}">'
            f"{escape(line.label)}</text>"
        )
