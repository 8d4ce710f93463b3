"""merge: transforms of weights worked out, as a plain model with plain parameters."""

from __future__ import annotations

from ..base.constructors import lift
from ..base.errors import LayerError, public_api
from ..base.layer import Layer
from ..base.parameters import entry_of, merge_entry
from ..base.paths import flatten, unflatten
from ..base.types import Params, State
from ..core.weights import array_of


@public_api
def merge(model: Layer, params: Params, state: State) -> tuple[Layer, Params, State]:
    """The model without its transforms of weights, and parameters by which it computes the same.

    ``lora``, ``weight_norm``, ``prune``, ``ema``, ``tie`` and the others are taken off, at whatever
    depth they are, and each weight is the array that they made of it in evaluation. Other wrappers
    and all paths stay.

    Args:
      model: a model with transforms of weights.
      params, state: its own.

    Returns:
      ``(model, params, state)``.

    Raises:
      LayerError: for a model without such transforms, as one that is merged already.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> tuned = jl.transforms.lora(jl.Dense(3), rank=2)
    >>> params, state = tuned.init(jax.random.key(0), jl.spec((2, 4)))
    >>> model, params, state = jl.transforms.merge(tuned, params, state)
    >>> model, sorted(params)
    (Dense(3), ['bias', 'kernel'])
    """
    model = lift(model)
    plain, params, state = _merged(model, params, state)
    if plain is model:
        raise LayerError(
            "the model has no transform of weights to merge",
            got=model.short(),
            hint="merge once; what it returns is the plain model",
        )
    return plain, _arrays(plain, params, 0), state


def _merged(layer: Layer, params: Params, state: State) -> tuple[Layer, Params, State]:
    """The layer without transforms, and its trees, in which weights may be lazy."""
    change = layer._weights.change
    if change is not None:
        params, state, _ = change(params, state, False)
        return _merged(layer.children[""], params, state)
    children = {}
    for name, child in layer.children.items():
        children[name], *inside = _merged(child, entry_of(params, name), entry_of(state, name))
        if children[name] is not child:
            params, state = (
                _with_entry(tree, name, entry)
                for tree, entry in zip((params, state), inside, strict=True)
            )
    changed = any(children[name] is not child for name, child in layer.children.items())
    return layer.rebuild(children) if changed else layer, params, state


def _with_entry(tree: Params, name: str, entry: Params) -> Params:
    if not name:
        return entry
    others = {key: value for key, value in tree.items() if key != name}
    return others | ({name: entry} if entry else {})


def _arrays(layer: Layer, params: Params, copies: int) -> Params:
    """``params`` with arrays in place of lazy weights, which have so many axes of copies."""
    made, inside = dict(params), copies + layer._weights.stacked
    for name, child in layer.children.items():
        if not name or name in made:
            merge_entry(made, name, _arrays(child, entry_of(made, name), inside))
    # What is left is the layer's own, or in the trees of a pair that is written by hand.
    return unflatten({path: array_of(leaf, copies) for path, leaf in flatten(made).items()})
