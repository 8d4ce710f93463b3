"""Logits of models with one table for ids and logits, where ``tied`` does not fit."""

from __future__ import annotations

import jax

from ..base.sequence import Sequence
from ..base.types import PyTree
from ..core.dense import dense


def logits(y: PyTree, table: jax.Array, bias: jax.Array | None = None) -> PyTree:
    """``y @ table.T + bias`` of an array or of a ``Sequence``.

    A body that calls it takes a Sequence as it is. With arithmetic of its own it would get values,
    and would take another input of as many steps for one with the same mask.
    """

    def of(y: jax.Array) -> jax.Array:
        return dense(y, table.T.astype(y.dtype), None if bias is None else bias.astype(y.dtype))

    return y.map(of) if isinstance(y, Sequence) else of(y)
