"""freeze: parameters that get no gradient, wherever the model is differentiated."""

from __future__ import annotations

import jax
from jax import lax

from ..base.constructors import LayerOrFunction, lift
from ..base.factory import factory
from ..base.layer import Layer
from ..base.patterns import Patterns, each_pattern
from ..combinators.transparent import with_lazy_weights


@factory
def freeze(layer: LayerOrFunction, pattern: Patterns = "**") -> Layer:
    """The layer, some of whose parameters are constants for every gradient.

    ``lax.stop_gradient`` of them: their gradients are zero, and are not computed. It says so in the
    model, for loops of your own. ``train_step(frozen=)`` also spares the optimiser their state, and
    keeps weight decay off them.

    Around it, transforms of the same weights are frozen with them: ``freeze(lora(model),
    "**/kernel")`` trains the matrices, ``lora(freeze(model), ...)`` nothing.

    Args:
      layer: any layer.
      pattern: paths of parameters, one or a tuple; by default all of them.

    Raises:
      LayerError: for a pattern that fits no parameter.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.transforms.freeze(jl.Dense(2), "kernel")
    >>> params, state = layer.init(jax.random.key(0), jl.spec((1, 3)))
    >>> gradient = jax.grad(lambda p: jnp.sum(layer.apply(p, state, jnp.ones((1, 3)))[0]))(params)
    >>> bool(gradient["kernel"].any()), gradient["bias"].tolist()
    (False, [1.0, 1.0])
    """
    return with_lazy_weights(
        lift(layer),
        each_pattern(pattern),
        lambda new: freeze(new, pattern),
        # Of a lazy weight, all that it is made of.
        lambda weight: jax.tree.map(lax.stop_gradient, weight),
        least_axes=0,
        floating=False,
    )
