"""Layers whose outputs are placed: on a mesh, what flows through a model stays split by rows.

XLA propagates how arrays are split from the parameters and the batch inwards. Where both are split
over one axis of the mesh a product can be computed in two ways, and it may gather the batch on each
device instead of the parameters. Said of the outputs of all layers, the rows stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..base.layer import Layer
from ..base.types import Params, PyTree
from .transformed import transformed

# Their children see rows of several copies, or of some experts.
_OTHER_ROWS = ("ensemble", "MixtureOfExperts", "map")


def with_placed_outputs(model: Layer, place: Callable[[PyTree], PyTree]) -> Layer:
    """The model with ``place`` on its output and on that of every layer with parameters of its own.

    The model's own too: a head that shares its table with an embedding is a part of its parent.
    """
    return model if model.maker in _OTHER_ROWS else _placed(_inside(model, place), place)


def _inside(layer: Layer, place: Callable[[PyTree], PyTree]) -> Layer:
    if layer.maker in _OTHER_ROWS:
        return layer
    if not layer.children:
        return _placed(layer, place)
    new = {name: _inside(child, place) for name, child in layer.children.items()}
    changed = any(new[name] is not child for name, child in layer.children.items())
    # A pair written by hand around others runs them itself.
    return layer.rebuild(new) if changed and layer._rebuild is not None else layer


def _placed(inner: Layer, place: Callable[[PyTree], PyTree]) -> Layer:
    def call(run: Callable[..., Any], params: Params, *given: Any) -> Any:
        # The output comes first, whether the program takes a whole input or a block of it.
        (y, *rest), losses = run(params, *given)
        return (place(y) if params else y, *rest), losses

    return transformed(inner, call, lambda new: _placed(new, place))
