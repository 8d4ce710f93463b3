"""stop_gradient: layers through whose outputs no gradient flows."""

from __future__ import annotations

from jax import lax

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import public_api
from ..base.factory import factory
from ..base.layer import Layer
from ..inspection.selectors import Kinds, Selector, layer_selection, map_selected
from .on_outputs import with_outputs


@public_api
def stop_gradient(
    layer: LayerOrFunction, selector: Selector = "**", *, kind: Kinds = None
) -> Layer:
    """The model without a gradient through the outputs of the selected layers.

    Outputs are as they were. The parameters of a selected layer get a gradient of zero, and so
    does all before it that the loss reaches through it alone: a frozen, pretrained encoder, or the
    target of a self-supervised loss. To hold parameters fixed and let the gradient pass to what is
    before them, freeze the parameters instead. A loss that a layer adds by itself keeps its
    gradient, and an optimizer may change parameters without one, by weight decay for instance.

    Args:
      layer: a model.
      selector: paths of layers: ``"encoder"``, ``("encoder/**", "!**/norm")``, or a predicate; see
        ``rewrite``. The whole model by default.
      kind: ``"embedding"``, ``jl.Embedding``; see ``rewrite``.

    Raises:
      LayerError: for a pattern or a kind that fits no layer.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.transforms.stop_gradient(jl.serial(jl.Dense(4), head=jl.Dense(1)), "dense")
    >>> model
    serial(stop_gradient(Dense(4)), head=Dense(1))
    >>> params, state = model.init(jax.random.key(0), jl.spec((2, 3)))
    >>> loss = lambda params: model.apply(params, state, jnp.ones((2, 3)))[0].sum()
    >>> jax.tree.map(lambda g: bool(g.any()), jax.grad(loss)(params))["dense"]
    {'bias': False, 'kernel': False}
    """
    layer = lift(layer)
    chosen = layer_selection(layer, selector, kind, whole=True)
    return map_selected(layer, chosen, lambda _, one: stopped_layer(one))


def _stopped_layer(layer: Layer) -> Layer:
    return with_outputs(layer, lax.stop_gradient, stopped_layer)


_stopped_layer.__name__, _stopped_layer.__qualname__ = "stop_gradient", "stopped_layer"
stopped_layer = factory(_stopped_layer)
