"""walk: over all layers of a model, by path."""

from __future__ import annotations

from collections.abc import Iterator

from ..base.constructors import LayerOrFunction, lift
from ..base.layer import Layer
from ..base.paths import join


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
