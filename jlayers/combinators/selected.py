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
from ..base.paths import join
from ..inspection.selectors import Kinds, layer_selection
from ..inspection.traverse import walk


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


def selection(layer: Layer, patterns: tuple[Any, ...], kind: Kinds = None) -> dict[str, Selected]:
    """What patterns select, by path, in the order of the model.

    Args:
      patterns: of layers, as ``select_layers`` takes them; and ``"**/attend:weights"`` for values
        inside them. What fits one after a ``!`` is left out: of ``"!head/**"`` also the values.
      kind: of the layers, as ``select_layers`` takes it.

    Raises:
      LayerError: for a pattern or a kind that fits no layer, for a name that no such layer knows,
        and where nothing is selected.
    """
    if not patterns and kind is None:
        raise LayerError("takes a pattern or more", expected='"**/attend", "encoder/*"')
    layers = dict(_innermost(layer, ""))
    named = [one for one in patterns if isinstance(one, str) and ":" in one]
    plain = [one for one in patterns if one not in named]
    unwanted = [one for one in plain if isinstance(one, str) and one.startswith("!")]

    def fitting(selector: list[Any]) -> dict[str, Layer]:
        chosen = layer_selection(layer, selector or None, kind)
        # Of a wrapper that is chosen, the layer inside it.
        paths = {path for path, one in walk(layer) if chosen(path, one)}
        return {path: one for path, one in layers.items() if path in paths}

    found: dict[str, Selected] = {}
    if len(plain) > len(unwanted) or not named:
        found = {path: Selected(path, True, ()) for path in fitting(plain)}
    for pattern in sorted(named, key=lambda one: one.startswith("!")):
        left_out = pattern.startswith("!")
        text, _, name = pattern.removeprefix("!").partition(":")
        for path, names in _names(fitting([text, *unwanted]), pattern, name).items():
            before = found.get(path, Selected(path, False, ()))
            kept = [one for one in before.names if one not in names]
            after = kept if left_out else dict.fromkeys((*before.names, *names))
            found[path] = before._replace(names=tuple(after))
    found = {path: one for path, one in found.items() if one.whole or one.names}
    if not found:
        raise LayerError("nothing is selected", got=", ".join(map(repr, patterns)))
    return {path: found[path] for path in layers if path in found}


def _names(layers: dict[str, Layer], pattern: str, name: str) -> dict[str, list[str]]:
    """The values inside layers that a name with wildcards fits, by the paths of the layers."""
    found = {
        path: [own for own in layer._values if fnmatch.fnmatchcase(own, name)]
        for path, layer in layers.items()
    }
    if not any(found.values()):
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
    return found


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
