"""rewrite: the model with other layers in place of the selected ones."""

from __future__ import annotations

from collections.abc import Callable

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.specs import format_short
from .selectors import Kinds, Selector, layer_selection, map_selected


@public_api
def rewrite(
    layer: LayerOrFunction,
    selector: Selector = None,
    change: Callable[[Layer], LayerOrFunction] | None = None,
    *,
    kind: Kinds = None,
) -> Layer:
    """The model with every selected layer replaced by ``change(layer)``.

    Names, and so the paths of the other parameters, stay as they are: ``change`` may return another
    layer, the layer in a transparent wrapper (``jl.remat``, ``jl.inference``, ...) whose parameters
    have the same paths, or ``jl.serial()``, the identity, to take a layer out. Inner layers are
    changed before outer ones; where a wrapper and the layer inside it have one path and both are
    selected, the inner is changed.

    Args:
      layer: a model.
      selector: patterns of paths, ``"encoder/**"`` or ``("**/dense*", "!head/**")``, or a
        predicate, ``lambda path, layer: ...``; see ``select_layers``. By default every layer,
        the model itself among them, which no pattern but ``""`` selects.
      change: a layer to a layer.
      kind: ``"dropout"``, ``"*norm"``, a factory (``jl.Dropout``), or several; what is selected
        fits ``selector`` and ``kind``.

    Raises:
      LayerError: for a pattern or a kind that fits no layer, and where none is selected.

    >>> import jlayers as jl
    >>> model = jl.serial(jl.Dense(64), jl.Dropout(0.5), jl.Dense(10))
    >>> jl.rewrite(model, kind="dropout", change=lambda layer: layer.replace(rate=0.1))
    serial(Dense(64), Dropout(0.1), Dense(10))
    >>> jl.rewrite(model, ("dense*", "!dense_1"), jl.remat)
    serial(remat(Dense(64)), Dropout(0.5), Dense(10))
    """
    if change is None:
        # rewrite(model, function, kind=...): the function is where the selector belongs.
        given = callable(selector) and not isinstance(selector, Layer)
        raise LayerError(
            "change is missing",
            expected="rewrite(model, selector, change), or rewrite(model, kind=..., change=...)",
            hint=f"change={format_short(selector)}" if given else None,
        )
    if isinstance(change, Layer):
        raise LayerError(
            "change must be a function of the layer, got a layer",
            got=change.short(),
            hint=f"lambda layer: {change.short()}",
        )
    arguments.function("change", change, "layer")
    layer, function = lift(layer), change
    chosen = layer_selection(layer, selector, kind)
    return map_selected(layer, chosen, lambda _, found: function(found))
