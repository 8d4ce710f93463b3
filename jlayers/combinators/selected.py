"""The layers of a model that patterns select, and wrappers around them that no parent sees.

Of layers with one path, a wrapper and the layer inside it, the innermost is selected, as by
``rewrite``.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any, NamedTuple

from ..base.errors import LayerError
from ..base.layer import Layer
from ..base.paths import check_each_fits, join, matches


class Selected(NamedTuple):
    """What is selected of one layer.

    Attributes:
      path: its path, "" for the model itself.
      whole: whether the layer's own output (input, gradient) is.
      names: the values inside it that are.
    """

    path: str
    whole: bool
    names: tuple[str, ...]


def selection(layer: Layer, patterns: tuple[Any, ...]) -> dict[str, Selected]:
    """What patterns select, by path, in the order of the model.

    Args:
      patterns: ``"encoder/*"`` for layers, ``"**/attend:weights"`` for values inside them; ``""``
        is the model itself.

    Raises:
      LayerError: for a pattern that fits no layer, and for a name that no such layer knows.
    """
    if not patterns:
        raise LayerError("takes a pattern or more", expected='"**/attend", "encoder/*"')
    layers = dict(_innermost(layer, ""))
    found: dict[str, Selected] = {}
    for pattern in patterns:
        text, _, name = pattern.partition(":") if isinstance(pattern, str) else (pattern, "", "")
        if text != "":
            check_each_fits((text,), [path for path in layers if path])
        fitting = [path for path in layers if path == text or (path and matches(path, text))]
        if isinstance(pattern, str) and ":" in pattern:
            _add_names(found, {path: layers[path] for path in fitting}, pattern, name)
            continue
        for path in fitting:
            before = found.get(path, Selected(path, False, ()))
            found[path] = before._replace(whole=True)
    return {path: found[path] for path in layers if path in found}


def _add_names(
    found: dict[str, Selected], layers: dict[str, Layer], pattern: str, name: str
) -> None:
    fits = False
    for path, layer in layers.items():
        names = [own for own in layer._values if fnmatch.fnmatchcase(own, name)]
        if names:
            fits = True
            before = found.get(path, Selected(path, False, ()))
            found[path] = before._replace(names=tuple(dict.fromkeys((*before.names, *names))))
    if not fits:
        offers = [
            f"{layer.kind} at {path!r}: {', '.join(layer._values) or 'none'}"
            for path, layer in layers.items()
        ]
        raise LayerError(
            f"no layer of the pattern {pattern!r} knows a value {name!r}",
            got="; ".join(offers[:8]) + ("; ..." if len(offers) > 8 else ""),
            hint="attention knows its 'weights', LSTM and GRU their gates, "
            "MixtureOfExperts its 'probabilities'",
        )


def rewritten(
    layer: Layer, selected: dict[str, Selected], change: Callable[[Selected, Layer], Layer]
) -> Layer:
    """The model with ``change(selected, layer)`` instead of each selected layer."""

    def rewrite(layer: Layer, path: str) -> Layer:
        new = {name: rewrite(child, join(path, name)) for name, child in layer.children.items()}
        if any(new[name] is not child for name, child in layer.children.items()):
            layer = layer.rebuild(new)
        if "" in new or path not in selected:
            return layer
        return change(selected[path], layer)

    return rewrite(layer, "")


def unseen(wrapped: Layer, layer: Layer) -> Layer:
    """A wrapper with the name, the text and the line of the layer inside it."""
    named = {"kind": layer.kind, "maker": layer.maker, "site": layer.site, "_text": layer._text}
    return wrapped._replace(**named, _values=layer._values)


def _innermost(layer: Layer, path: str) -> list[tuple[str, Layer]]:
    found = [] if "" in layer.children else [(path, layer)]
    for name, child in layer.children.items():
        found += _innermost(child, join(path, name))
    return found
