"""Which layers of a model are meant: by path, by kind, or by a predicate.

How to read this file: ``layer_selection`` checks what a user gave and makes one predicate of it;
``select_layers`` lists the layers, ``map_selected`` replaces them.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable
from typing import Any

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.paths import check_each_fits, fits, join
from ..base.specs import format_short
from .traverse import walk

Predicate = Callable[[str, Layer], bool]
# A pattern, several patterns, a predicate, or every layer.
Selector = str | tuple[str, ...] | list[str] | Predicate | None
Kind = str | Callable[..., Layer]
Kinds = Kind | tuple[Kind, ...] | list[Kind] | None


@public_api
def select_layers(
    model: LayerOrFunction, selector: Selector = None, *, kind: Kinds = None
) -> list[tuple[str, Layer]]:
    """The selected layers of a model with their paths, in the order of ``walk``.

    Args:
      model: a model.
      selector: patterns of paths, one or several; those after a ``!`` are left out again:
        ``("encoder/**", "!**/norm")``. Or a predicate, ``lambda path, layer: ...``. By default
        every layer, the model itself among them, which no pattern but ``""`` selects.
      kind: what the layers are, one or several: the text of ``layer.kind``, with wildcards
        (``"dropout"``, ``"*norm"``, ``"!dropout"``), or a factory (``jl.Dropout``).

    Raises:
      LayerError: for a pattern or a kind that fits no layer, and where none is selected.

    >>> import jlayers as jl
    >>> model = jl.serial(jl.Dense(8), jl.Dropout(0.5), head=jl.Dense(3))
    >>> jl.select_layers(model, "!head", kind="dense")
    [('dense', Dense(8))]
    """
    model = lift(model)
    chosen = layer_selection(model, selector, kind)
    return [(path, layer) for path, layer in walk(model) if chosen(path, layer)]


def layer_selection(
    model: Layer, selector: Selector, kind: Kinds = None, *, whole: bool = False
) -> Predicate:
    """A checked ``chosen(path, layer)``; the arguments are those of ``select_layers``.

    Args:
      whole: whether ``"**"`` selects the model itself too, and not what is inside alone.

    Raises:
      LayerError: as ``select_layers``.
    """
    every = list(walk(model))
    selector = None if whole and isinstance(selector, str) and selector == "**" else selector
    by_path, by_kind = _by_path(every, selector), _by_kind(every, kind)

    def chosen(path: str, layer: Layer) -> bool:
        return by_kind(layer) and by_path(path, layer)

    if not any(chosen(path, layer) for path, layer in every):
        # Each pattern and each kind fits something: it is all of them together that do not.
        kinds = [
            path or "the model" for path, layer in every if kind is not None and by_kind(layer)
        ]
        raise LayerError(
            "no layer is selected",
            got=f"{_selector_text(selector, kind)}, of {len(every)} layers",
            hint=f"of that kind: {', '.join(kinds[:20])}" if kinds else None,
        )
    return chosen


def map_selected(
    model: Layer,
    chosen: Predicate,
    change: Callable[[str, Layer], LayerOrFunction],
    *,
    outermost: bool = False,
) -> Layer:
    """The model with ``change(path, layer)`` in place of each layer for which ``chosen`` is true.

    Names, and so the paths of the other layers, stay as they are; a layer with nothing changed
    inside stays the same object. Inner layers are changed before outer ones, and of a wrapper and
    the layer inside it, which have one path, the inner one alone where both are chosen.

    Args:
      outermost: whether a layer inside a chosen one is left as it is.
    """

    def changed(path: str, layer: Layer) -> tuple[Layer, bool]:
        """The layer, and whether it or one inside it with the same path was changed."""
        selected = chosen(path, layer)
        if selected and outermost:
            return replaced(path, layer, layer), True
        new, inside = {}, False
        for name, child in layer.children.items():
            new[name], done = changed(join(path, name), child)
            inside |= done and not name
        original = layer
        if any(new[name] is not child for name, child in layer.children.items()):
            layer = layer.rebuild(new)
        if selected and not inside:
            return replaced(path, layer, original), True
        return layer, inside

    def replaced(path: str, layer: Layer, original: Layer) -> Layer:
        found = lift(change(path, layer))
        # Keeping the kind keeps the name that the parent derives from it.
        return found if found is layer else found._replace(kind=original.kind)

    return changed("", model)[0]


def _by_path(every: list[tuple[str, Layer]], selector: Selector) -> Predicate:
    if selector is None:
        return lambda path, layer: True
    if isinstance(selector, str | tuple | list):
        patterns = (selector,) if isinstance(selector, str) else tuple(selector)
        if not patterns:
            raise LayerError("no pattern is given", hint='"**" for every layer inside')
        inside = tuple(pattern for pattern in patterns if pattern != "")
        check_each_fits(inside, [path for path, _ in every if path], of="layer", negated=True)
        return lambda path, layer: fits(path, patterns) if path else "" in patterns
    if isinstance(selector, Layer) or not callable(selector):
        raise LayerError(
            f"expected a selector of layers, got {format_short(selector)}",
            expected="a pattern, several patterns, or a function of (path, layer)",
        )
    arguments.function("the selector", selector, "path, layer")
    return selector


def _by_kind(every: list[tuple[str, Layer]], kind: Kinds) -> Callable[[Layer], bool]:
    if kind is None:
        return lambda layer: True
    wanted: list[Kind] = []
    unwanted: list[Kind] = []
    for one in tuple(kind) if isinstance(kind, tuple | list) else (kind,):
        if not isinstance(one, str) and not getattr(one, "__jlayers_factory__", False):
            raise LayerError(
                f"a kind must be a text or a factory, got {format_short(one)}",
                expected='kind="dropout", or kind=jl.Dropout',
                hint=f"kind={one.kind!r}" if isinstance(one, Layer) else None,
            )
        negated = isinstance(one, str) and one.startswith("!")
        plain = one[1:] if isinstance(one, str) and negated else one
        _check_kind_fits(every, plain)
        (unwanted if negated else wanted).append(plain)

    # As ``fits`` for paths.
    def chosen(layer: Layer) -> bool:
        first = any(_is_of_kind(layer, one) for one in wanted) if wanted else bool(unwanted)
        return first and not any(_is_of_kind(layer, one) for one in unwanted)

    return chosen


def _check_kind_fits(every: list[tuple[str, Layer]], kind: Kind) -> None:
    if any(_is_of_kind(layer, kind) for _, layer in every):
        return
    there = list(dict.fromkeys(layer.kind for _, layer in every))
    name = kind if isinstance(kind, str) else kind.__name__
    close = difflib.get_close_matches(name.lower(), there, n=1)
    raise LayerError(
        f"no layer is of the kind {name!r}",
        got=", ".join(there[:20]) + (", ..." if len(there) > 20 else ""),
        hint=f"did you mean kind={close[0]!r}?" if close else None,
    )


def _is_of_kind(layer: Layer, kind: Kind) -> bool:
    if isinstance(kind, str):
        return fnmatch.fnmatchcase(layer.kind, kind)
    return layer._call.make is kind


def _selector_text(selector: Selector, kind: Kinds) -> str:
    given = [] if selector is None else [_text(selector)]
    return ", ".join([*given, f"kind={_text(kind)}"] if kind is not None else given)


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(_text, value))
    return repr(value) if isinstance(value, str) else format_short(value)
