"""Layers in notebooks: nested HTML that opens and closes without scripts, and treescope's parts."""

from __future__ import annotations

import html
import importlib
from collections.abc import Callable, Mapping
from typing import Any

# How deep the parts of a model are open at first.
_OPEN = 2


class InNotebooks:
    """The part of ``Layer`` that notebooks and treescope ask for."""

    __slots__ = ()
    maker: str
    copies: int
    children: Mapping[str, Any]
    short: Callable[[], str]

    def _repr_html_(self) -> str:
        return layer_html(self)

    def __treescope_repr__(self, path: str | None, subtree_renderer: Callable[..., Any]) -> Any:
        return layer_treescope(self, path, subtree_renderer)


def layer_html(layer: InNotebooks, name: str = "", depth: int = 0) -> str:
    """A layer, and those inside it indented below, each in a part that can be closed."""
    label = f"<b>{html.escape(name)}</b> " if name else ""
    text = f"{label}<code>{html.escape(_title(layer))}</code>"
    if not layer.children:
        return f'<div style="margin-left:1em">{text}</div>'
    inside = "".join(layer_html(child, key, depth + 1) for key, child in layer.children.items())
    opened = " open" if depth < _OPEN else ""
    return f'<details style="margin-left:1em"{opened}><summary>{text}</summary>{inside}</details>'


def _title(layer: InNotebooks) -> str:
    if not layer.children:
        return layer.short()
    return f"{layer.maker} x {layer.copies}" if layer.copies > 1 else layer.maker


def layer_treescope(layer: InNotebooks, path: str | None, render: Callable[..., Any]) -> Any:
    """A layer as a part of treescope, which calls this and is imported by then."""
    parts: Any = importlib.import_module("treescope.rendering_parts")
    if not layer.children:
        return parts.build_one_line_tree_node(line=layer.short(), path=path)
    children = [
        parts.siblings_with_annotations(
            parts.text(f"{name}=" if name else ""),
            render(child, path=None if path is None else f"{path}.children[{name!r}]"),
        )
        for name, child in layer.children.items()
    ]
    return parts.build_foldable_tree_node_from_children(
        prefix=f"{_title(layer)}(", children=children, suffix=")", comma_separated=True, path=path
    )
