"""The blocks of a model, by a walk over its description.

How to read this file: ``model_block`` is the picture between input and output; ``_block`` is one
layer. How children lie in a layer follows from the name of the function that built it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...base.layer import Layer
from ...base.specs import format_spec, specs_of
from ...base.tracing import trace
from ...base.types import PyTree
from . import blocks
from .blocks import Block
from .wiring import wiring

# Longer texts are cut.
_LONGEST = 32
_MERGES = {name: name for name in ("concat", "add", "multiply", "average", "maximum", "minimum")}
# Those whose outputs stay apart.
_APART = ("branch", "parallel")


class Part(NamedTuple):
    """A layer and what is known of it.

    Attributes:
      x: the specs of its input; None where no input was given.
      copies: of the layer, under those around it.
      depth: how many levels of layers inside are drawn; None for all.
    """

    layer: Layer
    x: PyTree
    copies: int
    depth: int | None

    def child(self, name: str, level: int = 1) -> Part:
        layer = self.layer
        x = None
        if self.x is not None:
            calls = trace(layer, self.x).inputs[name]
            # A body may call one of its children never, whatever the picture shows of it.
            x = calls[-1] if calls else None
        depth = None if self.depth is None else self.depth - level
        return Part(layer.children[name], x, self.copies * layer.copies, depth)

    @property
    def out(self) -> str:
        return "" if self.x is None else shape_text(trace(self.layer, self.x).out)


def model_block(layer: Layer, x: PyTree | None, depth: int | None) -> Block:
    """The model between boxes for its input and its output."""
    part = Part(layer, None if x is None else specs_of(x), 1, depth)
    entrance, end = blocks.box(["input"], "merge"), blocks.box(["output"], "merge")
    given = "" if x is None else shape_text(part.x)
    return blocks.column([entrance, _block(part, ""), end], [given, part.out])


def shape_text(x: PyTree) -> str:
    return _cut(format_spec(x))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _block(part: Part, name: str) -> Block:
    layer = part.layer
    if not layer.children or part.depth == 0:
        text = layer.short() if not layer.children else layer.maker
        return blocks.box([name, _cut(text), _parameters(part)])
    # A transparent wrapper: its layer in a frame that says what is done with it.
    if list(layer.children) == [""]:
        count = layer._call.checked.get("n", layer.copies)
        times = f" x {count}" if count != 1 else ""
        inside = _inside(part.child("", 0), "")
        return blocks.frame(inside, f"{name}  {layer.maker}{times}".strip())
    block = _inside(part, name)
    # Of what has a frame of its own, the function that made it is shown where nothing else tells.
    title = name if block.through else f"{name}  {layer.maker}".strip()
    return blocks.frame(block, title) if title else block


def _inside(part: Part, name: str) -> Block:
    """A layer without a frame of its own."""
    layer = part.layer
    if not layer.children or list(layer.children) == [""] or part.depth == 0:
        return _block(part, name)
    arranged = ARRANGEMENTS.get(layer.maker, _wired)
    return arranged(part, {child: part.child(child) for child in layer.children})


def _column(part: Part, children: Mapping[str, Part]) -> Block:
    made = [_block(child, name) for name, child in children.items()]
    return blocks.column(made, [child.out for child in children.values()][:-1])


def _lanes(part: Part, children: Mapping[str, Part]) -> Block:
    made = [_block(child, name) for name, child in children.items()]
    labels = ["" if child.x is None else shape_text(child.x) for child in children.values()]
    merge = _MERGES.get(part.layer.maker)
    if part.layer.maker not in _APART:
        # One input goes into all.
        labels = [""] * len(labels)
    return blocks.lanes(made, labels, merge)


def _residual(part: Part, children: Mapping[str, Part]) -> Block:
    body = _inside(children["body"], "body")
    if "shortcut" in children:
        return blocks.lanes([body, _block(children["shortcut"], "shortcut")], ["", ""], "+")
    return blocks.bypass(body, "", "+")


def _wired(part: Part, children: Mapping[str, Part]) -> Block:
    """Children that a function calls: as it calls them, if that is known."""
    found = None if part.x is None else wiring(part.layer, part.x)
    if found is None or not found.calls:
        return blocks.stack([_block(child, name) for name, child in children.items()])
    made, seen = [], set()
    for call in found.calls:
        name = f"{call.name} (again)" if call.name in seen else call.name
        seen.add(call.name)
        made.append(_block(children[call.name]._replace(x=call.x), name))
    labels = [shape_text(call.x) for call in found.calls]
    return blocks.wired(made, labels, [call.sources for call in found.calls], found.out)


ARRANGEMENTS: dict[str, Callable[[Part, Mapping[str, Part]], Block]] = {
    "serial": _column,
    "residual": _residual,
    **dict.fromkeys((*_MERGES, *_APART), _lanes),
}


def _parameters(part: Part) -> str:
    if part.x is None:
        return ""
    table = trace(part.layer, part.x).parameters.values()
    count = part.copies * sum(math.prod(spec.shape) for spec in table)
    return f"{count:,} parameters" if count else ""
