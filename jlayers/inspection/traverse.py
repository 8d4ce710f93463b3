"""walk and rewrite: over all layers of a model, by path."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import public_api
from ..base.layer import Layer
from ..base.paths import check_each_fits, join, matches


def walk(layer: LayerOrFunction, path: str = "") -> Iterator[tuple[str, Layer]]:
    """Every layer of a model with its path, parents first, in the order of the description.

    A transparent wrapper has the path of the layer inside it.

    >>> import jlayers as jl
    >>> for path, layer in jl.walk(jl.serial(jl.Dense(8), head=jl.repeat(jl.Dense(8), 3))):
    ...     print(repr(path), layer)
    '' serial(Dense(8), head=repeat(Dense(8), 3))
    'dense' Dense(8)
    'head' repeat(Dense(8), 3)
    'head' Dense(8)
    """
    layer = lift(layer)
    yield path, layer
    for name, child in layer.children.items():
        yield from walk(child, join(path, name))


@public_api
def rewrite(
    layer: LayerOrFunction, pattern: str, change: Callable[[Layer], LayerOrFunction]
) -> Layer:
    """The model with every layer whose path fits the pattern replaced by ``change(layer)``.

    Names, and so the paths of the other parameters, stay as they are. Inner layers are changed
    before outer ones; where a wrapper and the layer inside it have one path, the inner is changed.

    Args:
      layer: a model.
      pattern: ``"encoder/**"``, ``"**/dense*"``; see ``matches``.
      change: a layer to a layer.

    Raises:
      LayerError: for a pattern that fits no layer.

    >>> import jlayers as jl
    >>> model = jl.serial(jl.Dense(64), jl.Dropout(0.5), jl.Dense(10))
    >>> jl.rewrite(model, "dropout", lambda layer: jl.Dropout(0.1))
    serial(Dense(64), Dropout(0.1), Dense(10))
    """
    layer = lift(layer)
    check_each_fits((pattern,), [path for path, _ in walk(layer) if path])
    return _rewrite(layer, "", pattern, change)


def _rewrite(
    layer: Layer, path: str, pattern: str, change: Callable[[Layer], LayerOrFunction]
) -> Layer:
    new = {
        name: _rewrite(child, join(path, name), pattern, change)
        for name, child in layer.children.items()
    }
    # A layer with nothing changed inside stays the same object, and keeps what its trace found.
    if any(new[name] is not child for name, child in layer.children.items()):
        layer = layer.rebuild(new)
    # A wrapper has the path of the layer inside it, which was changed already.
    if "" in new or not matches(path, pattern):
        return layer
    changed = lift(change(layer))
    # Keeping the kind keeps the name that the parent derives from it.
    return changed if changed is layer else changed._replace(kind=layer.kind)
