"""BatchNorm: each feature normalised by its statistics over the batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import NonNegative, UpToOne
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.receptive_field import ReceptiveField
from ...base.sequence import Steps, join, split
from ...base.sequence_mode import SequenceMode
from ...base.step_pair import StepPair
from ...base.types import Carry, Initializer, Key, Params, State
from ...core.dtypes import at_least_float32


@factory
def BatchNorm(
    *,
    # As Flax, Equinox and Keras have it (docs/notes/0004-defaults.md).
    momentum: UpToOne = 0.99,
    # Not Keras's 1e-3.
    epsilon: NonNegative = 1e-5,
    scale: bool = True,
    bias: bool = True,
    scale_init: Initializer = initializers.ones,
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Normalises each feature by its mean and variance over all other axes.

    ``y = (x - mean) / sqrt(var + epsilon) * scale + bias`` (Ioffe & Szegedy, 2015,
    arXiv:1502.03167). With ``train=True`` the statistics are those of the batch, and the running
    ones in the state are updated: ``running = momentum * running + (1 - momentum) * batch``, with
    the biased variance, as in Keras and Flax. With ``train=False`` the running ones are used and
    stay as they are. The statistics of a ``Sequence`` are those of its valid steps. A batch without
    rows or valid steps leaves the running ones as they are.

    Args:
      momentum: the weight of the old running statistics at each step.
      epsilon: added to the variance.
      scale, bias: whether the normalised values are scaled and shifted by parameters.
      scale_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating, rank 2 or more. y: of the same shape and dtype; the arithmetic
      is float32 at least.
      params: scale (features,), bias (features,).
      state: mean (features,), var (features,), float32 at least.

    Raises:
      LayerError: for an input that is not one array of real floats of rank 2 or more, and for an
        empty last axis.

    >>> import jax, jlayers as jl
    >>> params, state = jl.BatchNorm().init(jax.random.key(0), jl.spec((8, 3)))
    >>> state
    {'mean': Array([0., 0., 0.], dtype=float32), 'var': Array([1., 1., 1.], dtype=float32)}
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        arguments.one_array(x, "(..., features)", least_rank=2)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, "(..., features)")
        features = x.shape[-1:]
        params = initialize(
            key,
            x,
            scale=(scale_init, features) if scale else None,
            bias=(bias_init, features) if bias else None,
        )
        # Through initialize as parameters are, so that they get the dtype of storage, float32 at
        # least.
        running = initialize(
            key, x, mean=(initializers.zeros, features), var=(initializers.ones, features)
        )
        return params, running

    def apply(
        params: Params, state: State, x: Steps, *, key: Key, train: bool
    ) -> tuple[Steps, State]:
        values, mask = split(x)
        if not train:
            return join(_normalize_by_running(params, state, values, epsilon), mask), state
        scale, bias = params.get("scale"), params.get("bias")
        axes = range(values.ndim - 1)
        if mask is None:
            # One gradient through y and the statistics: two sums and one pass over the input.
            y, *batch = core.standardize(values, scale, bias, epsilon, axes)
            # A batch of no rows has no statistics, as one of nothing but padding has none.
            return y, state if 0 in values.shape else updated(state, batch)
        y, *batch = core.masked_normalize(values, mask, scale, bias, epsilon, axes)
        # A batch of nothing but padding has no statistics: the running ones stay as they are.
        nonempty = jnp.any(mask)
        state = jax.tree.map(
            lambda new, old: jnp.where(nonempty, new, old), updated(state, batch), state
        )
        return join(y, mask), state

    def updated(state: State, batch: list[jax.Array]) -> State:
        return {
            name: momentum * state[name]
            # Statistics have axes of size 1 for all that was reduced.
            + (1 - momentum) * value.reshape(-1).astype(state[name].dtype)
            for name, value in zip(("mean", "var"), batch, strict=True)
        }

    def step(
        params: Params, state: State, carry: Carry | None, x: Steps, *, key: Key, train: bool
    ) -> tuple[Steps, Carry]:
        # In a stream the running statistics are used: those of the batch include later steps.
        return apply(params, state, x, key=key, train=False)[0], {}

    return Layer(
        init,
        apply,
        # rows: a mask of rows alone matters too, because statistics are taken over the batch.
        sequence_mode=SequenceMode("whole", lambda x: ReceptiveField(), rows=True),
        stream=StepPair(lambda params, state, x, *, capacity: {}, step),
    )


def _normalize_by_running(params: Params, state: State, x: jax.Array, epsilon: float) -> jax.Array:
    wide = at_least_float32(x.dtype)
    rows = {
        name: value.reshape((1,) * (x.ndim - 1) + value.shape)
        for name, value in {**params, **state}.items()
    }
    mean, variance = rows["mean"].astype(wide), rows["var"].astype(wide)
    return core.normalize(x, mean, variance, rows.get("scale"), rows.get("bias"), epsilon)
