"""VectorQuantizer: each vector replaced by the nearest row of a table.

How to read this file: with ``decay`` the table is in the state and follows its vectors
(``_averaged``); without it the table is a parameter, and a loss moves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ... import core
from ...base import arguments
from ...base.arguments import Fraction, NonNegative, Positive
from ...base.collecting import add_loss
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.receptive_field import ReceptiveField
from ...base.sequence import Steps, join, split
from ...base.sequence_mode import SequenceMode
from ...base.step_pair import Stepping, are_streamed
from ...base.types import Carry, Initializer, Key, Params, State
from ...core.dense import kernel_gradient
from ...core.dtypes import at_least_float32, sharded_as
from .table import lookup


@factory
def VectorQuantizer(
    num_embeddings: Positive,
    *,
    commitment: NonNegative = 0.25,
    decay: Fraction | None = None,
    epsilon: NonNegative = 1e-5,
    axis_name: str | Sequence[str] | None = None,
    # As in Haiku and Sonnet.
    embedding_init: Initializer = initializers.variance_scaling(
        1.0, "fan_in", "uniform", in_axis=1, out_axis=0
    ),
) -> Layer:
    """The nearest row of a table, for each vector of features (van den Oord et al., 2017).

    The gradient of the output goes to ``x`` as if nothing were replaced (straight through). The
    layer adds a loss, for ``training.train_step`` or ``with_losses``: the mean of ``(x - row) **
    2``, by ``commitment`` for ``x``, and by 1 for the rows; with ``decay`` there is only the first,
    and in training the table follows moving averages of the vectors instead (arXiv:1711.00937,
    appendix A.1). Padded steps of a ``Sequence`` count in neither. ``core.nearest`` gives the ids,
    for which ``Embedding`` with the same table gives the rows again.

    Args:
      num_embeddings: how many rows.
      commitment: the weight of the loss that moves ``x`` to its row.
      decay: the weight of the old averages at each step, 0.99 for example; None for a table that is
        a parameter. Averages are divided by what they lack at the first steps, as in Haiku.
      epsilon: about how many vectors a row has at least in the averages. A row that has met no
        vector yet becomes zeros at the first step.
      axis_name: the mapped axis, or several, over which the averages are taken too, inside
        ``jax.shard_map`` and ``jax.vmap``. Under ``jit`` the batch is the whole batch.
      embedding_init: as in ``jax.nn.initializers``.

    Shapes:
      x: (..., features), floating. y: of the same shape and dtype.
      params: embedding (num_embeddings, features); none with ``decay``.
      state: with ``decay``, embedding (num_embeddings, features), count (num_embeddings,), total
      (num_embeddings, features) and weight (), float32 at least.

    Raises:
      LayerError: for an input that is not one array of real floats of rank 1 or more,
        and for an ``axis_name`` that is not mapped where the layer trains.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> layer = jl.with_losses(jl.VectorQuantizer(2))
    >>> params = {"embedding": jnp.array([[0.0, 0.0], [1.0, 1.0]])}
    >>> (y, loss), _ = layer.apply(params, {}, jnp.array([[0.8, 0.8]]))
    >>> y.tolist(), round(float(loss), 4)
    ([[1.0, 1.0]], 0.05)
    """

    def init(key: jax.Array, x: jax.ShapeDtypeStruct) -> tuple[Params, State]:
        arguments.one_array(x, "(..., features)", least_rank=1)
        arguments.floating(x)
        arguments.real(x)
        arguments.has_features(x, "(..., features)")
        sizes, zeros = (num_embeddings, x.shape[-1]), initializers.zeros
        table = initialize(key, x, embedding=(embedding_init, sizes))
        if decay is None:
            return table, {}
        count, total = (zeros, sizes[:1]), (zeros, sizes)
        return {}, table | initialize(key, x, count=count, total=total, weight=(zeros, ()))

    def apply(
        params: Params, state: State, x: Steps, *, key: Key, train: bool
    ) -> tuple[Steps, State]:
        values, mask = split(x)
        wide = values.astype(at_least_float32(values.dtype))
        table = (params if decay is None else state)["embedding"].astype(wide.dtype)
        ids = core.nearest(wide, table)
        rows = lookup(table, ids)
        lead = values.shape[:-1]
        valid = jnp.ones(lead, bool) if mask is None else mask
        between = (1,) * (len(lead) - valid.ndim)
        valid = jnp.broadcast_to(valid.reshape(*valid.shape, *between), lead)
        valid = sharded_as(valid, wide[..., 0])

        def mean(squares: jax.Array) -> jax.Array:
            each = jnp.mean(squares, -1)
            each = jnp.where(valid, each, jnp.zeros_like(each))
            return jnp.sum(each) / jnp.maximum(jnp.sum(valid, dtype=wide.dtype), 1)

        fixed = jax.lax.stop_gradient
        loss = commitment * mean(jnp.square(wide - fixed(rows)))
        if decay is None:
            loss = loss + mean(jnp.square(fixed(wide) - rows))
        elif train:
            state = _averaged(state, fixed(wide), ids, valid, decay, epsilon, axis_name)
        add_loss(loss)
        # In this order: the difference is exactly 0, and the output exactly a row.
        y = fixed(rows) + (wide - fixed(wide))
        return join(y.astype(values.dtype), mask), state

    def advance(
        params: Params, state: State, carry: Carry | None, x: Steps, *, key: Key, train: bool
    ) -> tuple[Steps, Carry, State]:
        y, after = apply(params, state, x, key=key, train=train and not are_streamed())
        return y, {}, after

    return Layer(
        init,
        apply,
        # rows: a mask of rows alone matters too, for the loss and the averages.
        sequence_mode=SequenceMode("whole", lambda x: ReceptiveField(), rows=True),
        stream=Stepping(lambda params, state, x, *, capacity: {}, advance),
    )


def _averaged(
    state: State,
    x: jax.Array,
    ids: jax.Array,
    valid: jax.Array,
    decay: float,
    epsilon: float,
    axis_name: Any,
) -> State:
    """The state after a batch: the mean of the vectors of each row, in moving averages."""
    num_embeddings = state["count"].shape[0]
    hot = jax.nn.one_hot(ids, num_embeddings, dtype=x.dtype)
    hot = hot * valid[..., None].astype(hot.dtype)
    axes = tuple(range(ids.ndim))

    def over_devices(value: jax.Array) -> jax.Array:
        if axis_name is None:
            return value
        try:
            return jax.lax.psum(value, axis_name)  # type: ignore[no-any-return]
        except NameError:
            raise LayerError(
                f"there is no mapped axis {axis_name!r} here",
                hint="jax.shard_map; without axis_name a sharded batch under jit is one batch",
            ) from None

    batch = {
        "count": over_devices(jnp.sum(hot, axes)),
        "total": over_devices(kernel_gradient(hot, x, jnp.asarray(state["total"]))),
        "weight": jnp.ones((), x.dtype),
    }
    new = {
        name: decay * state[name] + (1 - decay) * value.astype(state[name].dtype)
        for name, value in batch.items()
    }
    # What the averages of the first steps lack, since they start from zeros.
    count, total = (
        new[name] / jnp.broadcast_to(new["weight"], new[name].shape) for name in ("count", "total")
    )
    n = jnp.sum(count)
    count = (count + epsilon) / (n + num_embeddings * epsilon) * n
    new["embedding"] = total / jnp.broadcast_to(count[:, None], total.shape)
    # A batch without vectors changes nothing.
    some = jnp.sum(batch["count"]) > 0
    return {name: jnp.where(some, new[name], state[name]) for name in state}
