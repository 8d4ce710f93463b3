"""prune: weights that are zero and stay zero, by masks in the state; masks by magnitude."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError, public_api
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.paths import fitting, flatten, unflatten
from ..base.patterns import Patterns, checked_patterns, each_pattern
from ..base.types import Params, State
from ..combinators.transparent import Parts, beside, with_lazy_weights
from ..core.weights import Weight, array_of, lazy

_MASK = "prune_mask"


@factory
def prune(layer: LayerOrFunction, pattern: Patterns = "**/*kernel") -> Layer:
    """The layer with some entries of its weights zero, which stay so while it is trained.

    ``kernel' = where(mask, kernel, 0)``, with bools in the state, at first all of them True.
    ``magnitude_masks`` computes others. Entries that are masked get a gradient of zero.

    Args:
      layer: any layer.
      pattern: paths of parameters, one or a tuple; by default all kernels.

    State:
      that of ``layer``; and for each weight ``kernel_prune_mask``, bool of its shape.

    Raises:
      LayerError: for a pattern that fits no parameter.

    >>> import jax, jlayers as jl
    >>> layer = jl.transforms.prune(jl.Dense(3))
    >>> params, state = layer.init(jax.random.key(0), jl.spec((2, 4)))
    >>> state = jl.transforms.magnitude_masks(params, state, 0.75)
    >>> int(state["kernel_prune_mask"].sum())
    3
    """

    def parts(spec: ParamSpec) -> Parts:
        mask = beside(spec, initializers.ones, spec.shape_of_one, spec.key_path, np.dtype(bool))
        return Parts(state={_MASK: mask})

    return with_lazy_weights(
        lift(layer),
        each_pattern(pattern),
        lambda new: prune(new, pattern),
        lambda kernel, prune_mask: Masked(kernel, prune_mask),
        state=(_MASK,),
        parts=parts,
        least_axes=0,
    )


@lazy
class Masked(Weight):
    """``where(mask, kernel, 0)``."""

    mask: jax.Array

    def made(self) -> jax.Array:
        kernel = array_of(self.kernel)
        return jnp.where(self.mask, kernel, jnp.zeros_like(kernel))


@public_api
def magnitude_masks(
    params: Params,
    state: State,
    sparsity: float,
    pattern: Patterns = "**",
    *,
    each: bool = False,
) -> State:
    """The state with masks that prune the smallest weights.

    Weights are compared as they are stored: for those that another transform makes, such as
    ``weight_norm(prune(layer))``, that is not their size in the layer; put ``prune`` outside.
    What is pruned already counts as 0, and so is among the smallest: call it again with a larger
    ``sparsity`` while training (Zhu & Gupta, 2017, arXiv:1710.01878).

    Args:
      params, state: of a model with ``prune`` in it.
      sparsity: which part of the weights is zero, from 0 to 1; rounded to a whole number of them.
      pattern: paths of weights, one or a tuple; masks of others stay as they are.
      each: whether that is the part of each array, copies of a ``repeat`` together, and not of all
        of them.

    Raises:
      LayerError: for another ``sparsity``, a state without masks, and a pattern that fits none of
        the weights that have one.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> params = {"kernel": jnp.array([[3.0, -1.0], [2.0, 0.5]])}
    >>> state = {"kernel_prune_mask": jnp.ones((2, 2), bool)}
    >>> jl.transforms.magnitude_masks(params, state, 0.5)["kernel_prune_mask"].tolist()
    [[True, False], [True, False]]
    """
    if isinstance(params, Layer):
        raise LayerError(
            "takes trees, and the model is not among them",
            expected="magnitude_masks(params, state, sparsity)",
            got=params.short(),
        )
    sparsity = arguments.number("sparsity", sparsity, most=1.0)
    flat, entries = flatten(params), flatten(state)
    pruned = {path.removesuffix(f"_{_MASK}") for path in entries if path.endswith(f"_{_MASK}")}
    paths = sorted(pruned & flat.keys())
    if not paths:
        raise LayerError(
            "the state has no masks",
            got=", ".join(entries) or "an empty state",
            hint="params, state = jl.transforms.prune(model).init(key, x)",
        )
    chosen = fitting(checked_patterns(pattern), paths)
    groups = [[path] for path in chosen] if each else [chosen]
    for group in groups:
        sizes = [
            jnp.where(entries[f"{path}_{_MASK}"], jnp.abs(flat[path]), 0).ravel() for path in group
        ]
        every = jnp.concatenate([size.astype(jnp.float32) for size in sizes])
        # By rank and not by a threshold: of equal weights some may have to stay.
        order = jnp.argsort(every, stable=True)
        kept = jnp.ones(every.size, bool).at[order[: round(sparsity * every.size)]].set(False)
        parts = jnp.split(kept, np.cumsum([size.size for size in sizes])[:-1])
        for path, part in zip(group, parts, strict=True):
            entries[f"{path}_{_MASK}"] = part.reshape(flat[path].shape)
    return unflatten(entries)
