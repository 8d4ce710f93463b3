"""BatchNorm: each feature normalised by its statistics over the batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import Initializer, initialize
from ...base.receptive_field import ReceptiveField
from ...base.sequence import join, split
from ...base.sequence_mode import SequenceMode
from ...base.specs import Params, State
from ...base.step_pair import Carry, StepPair


@factory
def BatchNorm(
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Normalises the last axis by mean and variance over all others (Ioffe & Szegedy, 2015).

    With ``train=True`` the statistics are the batch's, and the running ones in the state move:
    ``running = momentum * running + (1 - momentum) * batch``, with the biased variance, as in
    Keras and Flax. With ``train=False`` the running ones are used and stay. Those of a
    ``Sequence`` are its valid steps'.

    Args:
      momentum: how much of the running statistics stays at each step.
      epsilon: added to the variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating, rank 2 or more. y: of the same shape and dtype; the arithmetic
      is float32 at least.
      params: scale (features,), bias (features,).
      state: mean (features,), var (features,), float32 at least.

    >>> import jax, jlayers as jl
    >>> params, state = jl.BatchNorm().init(jax.random.key(0), jl.spec((8, 3)))
    >>> state
    {'mean': Array([0., 0., 0.], dtype=float32), 'var': Array([1., 1., 1.], dtype=float32)}
    """
    momentum = arguments.number("momentum", momentum, most=1.0)
    epsilon = arguments.number("epsilon", epsilon)
    scale, bias = arguments.flag("scale", scale), arguments.flag("bias", bias)

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        arguments.one_array(x, "(..., features)", least_rank=2)
        arguments.floating(x)
        arguments.real(x)
        arguments.not_empty(x, "(..., features)")
        features = x.shape[-1:]
        params = initialize(
            key,
            x,
            scale=(scale_init, features) if scale else None,
            bias=(bias_init, features) if bias else None,
        )
        running = initialize(
            key, x, mean=(initializers.zeros, features), var=(initializers.ones, features)
        )
        return params, running

    def apply(params: Params, state: State, x: Any, *, key: Any, train: bool) -> tuple[Any, State]:
        values, mask = split(x)
        if not train:
            return join(_by_running(params, state, values, epsilon), mask), state
        rows = params.get("scale"), params.get("bias")
        axes = range(values.ndim - 1)
        if mask is None:
            y, *batch = core.standardize(values, *rows, epsilon, axes)
            return y, moved(state, batch)
        y, *batch = core.standardize_valid(values, mask, *rows, epsilon, axes)
        # A batch of nothing but padding has no statistics to move to.
        some = jnp.any(mask)
        kept = jax.tree.map(lambda new, old: jnp.where(some, new, old), moved(state, batch), state)
        return join(y, mask), kept

    def moved(state: State, batch: list[jax.Array]) -> State:
        return {
            name: momentum * state[name]
            + (1 - momentum) * value.reshape(-1).astype(state[name].dtype)
            for name, value in zip(("mean", "var"), batch, strict=True)
        }

    def step(
        params: Params, state: State, carry: Carry, x: Any, *, key: Any, train: bool
    ) -> tuple[Any, Carry]:
        return apply(params, state, x, key=key, train=False)[0], {}

    return Layer(
        init,
        apply,
        sequence_mode=SequenceMode("whole", lambda x: ReceptiveField(), rows=True),
        stream=StepPair(lambda params, state, x, *, capacity: {}, step),
    )


def _by_running(params: Params, state: State, x: jax.Array, epsilon: float) -> jax.Array:
    wide = core.at_least_float32(x.dtype)
    rows = {
        name: value.reshape((1,) * (x.ndim - 1) + value.shape)
        for name, value in {**params, **state}.items()
    }
    mean, variance = rows["mean"].astype(wide), rows["var"].astype(wide)
    return core.normalize(x, mean, variance, rows.get("scale"), rows.get("bias"), epsilon)
