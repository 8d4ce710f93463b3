"""gradient_checkpoint: layers that are recomputed in the backward pass, by path."""

from __future__ import annotations

import inspect

from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.specs import format_short
from ..combinators.stack import Policy, remat
from ..inspection.selectors import Kinds, Selector, layer_selection, map_selected


@public_api
def gradient_checkpoint(
    layer: LayerOrFunction,
    selector: Selector = "**",
    *,
    policy: Policy | None = None,
    kind: Kinds = None,
) -> Layer:
    """The model with the selected layers recomputed in the backward pass instead of stored.

    Each selected layer is under ``remat``. A selected ``repeat`` or ``pipeline`` gets its own
    ``remat=``, so that of each copy the input alone is stored. A layer under ``remat`` already
    stays as it is.

    Where one selected layer is inside another, the outer one is selected. Paths stay as they are.
    On CPU jaxlib 0.10 undoes ``remat`` outside of loops.

    Args:
      layer: a model.
      selector: paths of layers: ``"encoder/*"``, ``("blocks/**", "!**/norm")``, or a predicate; see
        ``rewrite``. The whole model by default.
      policy: what to store, of ``jax.checkpoint_policies``; by default the inputs alone.
      kind: ``"lstm"``, ``jl.TransformerBlock``; see ``rewrite``.

    Raises:
      LayerError: for a pattern or a kind that fits no layer, and for what is not a policy.

    >>> import jlayers as jl
    >>> block = jl.residual(jl.Dense(8))
    >>> model = jl.serial(jl.Dense(8), blocks=jl.repeat(block, 12), head=jl.Dense(3))
    >>> jl.transforms.gradient_checkpoint(model, "blocks")
    serial(Dense(8), blocks=repeat(residual(Dense(8)), 12, True), head=Dense(3))
    """
    if policy is not None and not callable(policy):
        raise LayerError(
            f"policy must be one of jax.checkpoint_policies, got {format_short(policy)}",
            expected="jax.checkpoint_policies.dots_saveable, for instance",
        )
    layer = lift(layer)
    chosen = layer_selection(layer, selector, kind, whole=True)
    return map_selected(layer, chosen, lambda _, one: _checkpointed(one, policy), outermost=True)


def _checkpointed(layer: Layer, policy: Policy | None) -> Layer:
    changed = _in_wrappers(layer, policy)
    return remat(layer, policy) if changed is None else changed


def _in_wrappers(layer: Layer, policy: Policy | None) -> Layer | None:
    """The layer with the ``remat=`` of a loop among its wrappers; None where there is no loop."""
    inner = layer.children.get("")
    if inner is None:
        return None
    # A factory around it hides the combinator, which is what it is rebuilt by.
    call = layer.rebuild(layer.children)._call
    if call.make is remat:
        return layer
    if "remat" in inspect.signature(call.make).parameters:
        given = {**call.checked, "layer": inner, "remat": policy or True}
        loop: Layer = call.make(**given)
        return loop._replace(kind=layer.kind, _named=True, site=layer.site)
    changed = _in_wrappers(inner, policy)
    return None if changed is None else layer.rebuild({"": changed})
