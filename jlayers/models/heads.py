"""What is made of the features of steps: logits by a table, and one vector of a row."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base.arguments import not_empty
from ..base.sequence import Sequence, Steps
from ..base.types import PyTree
from ..core.dense import dense


def logits(y: PyTree, table: jax.Array, bias: jax.Array | None = None) -> PyTree:
    """``y @ table.T + bias`` of an array or of a ``Sequence``, where ``tied`` does not fit.

    A body that calls it takes a Sequence as it is. With arithmetic of its own it would get values,
    and would take another input of as many steps for one with the same mask.
    """

    def of(y: jax.Array) -> jax.Array:
        return dense(y, table.T.astype(y.dtype), None if bias is None else bias.astype(y.dtype))

    return y.map(of) if isinstance(y, Sequence) else of(y)


def first_step(x: Steps) -> jax.Array:
    """The first valid step of each row, (batch, ...)."""
    x = x if isinstance(x, Sequence) else Sequence(x)
    not_empty(x.values, "(batch, time, features), of one step or more")
    at = jnp.argmax(x.mask, 1).reshape(-1, 1, 1)
    return jnp.take_along_axis(x.fill(), at, axis=1)[:, 0]
