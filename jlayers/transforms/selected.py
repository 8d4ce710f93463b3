"""The layers of a model that a pattern selects, changed: each of them, or the outermost ones."""

from __future__ import annotations

from collections.abc import Callable

from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.paths import join, matches, similar_pattern
from ..base.specs import format_short

Change = Callable[[Layer], Layer]
# Also the model itself, which has no path.
EVERYTHING = "**"


def each_selected(layer: Layer, pattern: str, change: Change) -> Layer:
    """``change`` of each layer that fits, inner ones first; of wrappers, the layer inside them.

    Raises:
      LayerError: for a pattern that fits no layer.
    """
    return _Selection(pattern, change, each=True).of(layer)


def outermost_selected(layer: Layer, pattern: str, change: Change) -> Layer:
    """``change`` of the layers that fit and are in no other such, wrappers around them included."""
    return _Selection(pattern, change, each=False).of(layer)


class _Selection:
    def __init__(self, pattern: str, change: Change, *, each: bool):
        if not isinstance(pattern, str):
            raise LayerError(f"a pattern must be a text, got {format_short(pattern)}")
        self.pattern, self.change, self.each = pattern, change, each
        self.paths: list[str] = []
        self.found = False

    def of(self, layer: Layer) -> Layer:
        changed = self._visit(layer, "", own=True)
        if not self.found:
            shown = ", ".join(self.paths[:20]) or "nothing inside"
            hint = similar_pattern(self.pattern, self.paths)
            raise LayerError(f"the pattern {self.pattern!r} fits no layer", got=shown, hint=hint)
        return changed

    def _visit(self, layer: Layer, path: str, own: bool) -> Layer:
        """A layer and what is inside it; ``own`` says whether it is the outermost of its path."""
        if own and path:
            self.paths.append(path)
        fits = matches(path, self.pattern) if path else self.pattern == EVERYTHING
        if fits and not self.each:
            self.found = True
            return self.change(layer)
        new = {
            name: self._visit(child, join(path, name), own=bool(name))
            for name, child in layer.children.items()
        }
        if any(new[name] is not child for name, child in layer.children.items()):
            layer = layer.rebuild(new)
        if not fits or "" in new:
            return layer
        self.found = True
        return self.change(layer)
