"""ema: the average of the parameters over training, which evaluation uses."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import initializers

from ..base import arguments
from ..base.constructors import LayerOrFunction, lift
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.parameters import ParamSpec
from ..base.paths import flatten, unflatten
from ..base.patterns import Patterns, each_pattern
from ..base.tracing import Trace
from ..base.types import Params, PyTree, State
from ..combinators.transparent import (
    beside,
    copies_at,
    not_those_of_the_model,
    traced,
    weight_fits,
    weights_of,
    with_changed_weights,
    with_entries,
)
from ..core.dtypes import at_least_float32
from ..core.weights import array_of

_AVERAGE, _STEPS = "ema", "ema_steps"


def _decay(name: str, value: Any) -> float:
    found = arguments.number(name, value, most=1.0)
    if found == 1:
        raise LayerError(f"{name} must be less than 1: the average would never move")
    return found


@factory
def ema(
    layer: LayerOrFunction, decay: Annotated[float, _decay] = 0.999, pattern: Patterns = "**"
) -> Layer:
    """The layer, in evaluation with an average of its parameters over the steps of training.

    ``average = decay * average + (1 - decay) * parameter`` at each call with ``train=True``, whose
    output is that of the parameters themselves. Evaluation divides the average by ``1 -
    decay^steps``, so that the zeros it starts from do not count (as Adam does); before the first
    step it uses the parameters. The last step's update of the parameters enters the average at the
    next call.

    Args:
      layer: any layer.
      decay: how much of the average stays, from 0 to below 1.
      pattern: paths of parameters, one or a tuple; by default all of them.

    State:
      that of ``layer``; for each parameter ``kernel_ema``, of its shape, in float32 or its wider
      dtype; and ``ema_steps``.

    Raises:
      LayerError: for a pattern that fits no parameter, and one of integers.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> layer = jl.transforms.ema(jl.Dense(1, bias=False), decay=0.5)
    >>> x = jnp.ones((1, 1))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> for value in (1.0, 4.0):
    ...     params = {"kernel": jnp.full((1, 1), value)}
    ...     _, state = layer.apply(params, state, x, train=True)
    >>> layer.apply(params, state, x)[0]  # (0.25 * 1 + 0.5 * 4) / 0.75
    Array([[3.]], dtype=float32)
    """
    inner, patterns = lift(layer), each_pattern(pattern)
    rate = math.log(decay) if decay else -math.inf

    @functools.lru_cache(maxsize=16)
    def copies_of(paths: tuple[str, ...]) -> dict[str, int]:
        return {path: copies_at(inner, path) for path in paths if weight_fits(path, patterns)}

    def change(params: Params, state: State, train: bool) -> tuple[Params, State, State]:
        leaves, rest = flatten(params), flatten(state)
        averages = [f"{path}_{_AVERAGE}" for path in copies_of(tuple(leaves))]
        if absent := [name for name in (_STEPS, *averages) if name not in rest]:
            raise not_those_of_the_model(absent)
        steps = rest.pop(_STEPS)
        own = {_STEPS: steps + int(train)}
        count = own[_STEPS].astype(jnp.float32)
        for path, copies in copies_of(tuple(leaves)).items():
            name = f"{path}_{_AVERAGE}"
            average, weight = rest.pop(name), array_of(leaves[path], copies)
            if train:
                now = lax.stop_gradient(weight).astype(average.dtype)
                # Not decay * average: the nearest float32 of a decay near 1 is another one.
                own[name] = average + (1 - decay) * (now - average)
                continue
            own[name] = average
            # Both are computed where there were no steps, and 0 / 0 is in the gradient.
            whole = (-jnp.expm1(jnp.maximum(count, 1) * rate)).astype(average.dtype)
            used = jnp.where(count > 0, average / whole, weight.astype(average.dtype))
            leaves[path] = used.astype(weight.dtype)
        return unflatten(leaves), unflatten(rest), own

    def abstract(_: Layer, key: jax.Array, x: PyTree) -> tuple[Trace, PyTree]:
        found, y = traced(inner, key, x)
        weights = weights_of(found, patterns, 0)
        # In 16 bits a small step of the average would be lost.
        averages = {
            f"{path}_{_AVERAGE}": beside(
                spec,
                initializers.zeros,
                spec.shape_of_one,
                spec.key_path,
                at_least_float32(spec.dtype),
            )
            for path, spec in weights.items()
        }
        steps = ParamSpec(initializers.zeros, (), np.dtype(np.int32), (_STEPS,))
        return with_entries(found, {}, averages | {_STEPS: steps}), y

    return with_changed_weights(inner, change, abstract, lambda new: ema(new, decay, pattern))
