"""Wrappers of layers for sequences, (batch, time, ...): ``bidirectional`` and ``each_step``.

How to read this file: ``bidirectional`` reverses its input and output with ``_reversed``, of a
Sequence the valid steps alone (``_reverse_valid``); ``each_step`` puts the time axis into the batch
and back with ``_folded`` and ``_unfolded``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..base.constructors import LayerOrFunction, lift, lift_child
from ..base.errors import LayerError
from ..base.factory import factory
from ..base.layer import Layer
from ..base.scope import Scope, composite
from ..base.sequence import Sequence, is_sequence, sequences_in
from ..base.specs import format_spec, specs_of
from ..base.types import PyTree
from .merge import concat

# By the words of Keras.
_MERGES = "concat(), or add() for 'sum', multiply() for 'mul', average() for 'ave'"


@factory
def bidirectional(
    layer: LayerOrFunction,
    merge: LayerOrFunction | None = None,
    *,
    backward: LayerOrFunction | None = None,
) -> Layer:
    """``layer`` forwards in time and a second copy backwards, their outputs merged.

    The backward copy reads the steps in reverse order; its outputs are put back into the order
    of the input. The children are named ``forward`` and ``backward``; an output of rank 2 is the
    last step's, one of rank 3 and up is a sequence (batch, time, ...). For the states that each
    direction ends with: ``carried(bidirectional(layer))``.

    Args:
      layer: a layer on sequences, (batch, time, ...).
      merge: a layer on the pair (forward, backward); ``concat()`` along the features by default.
        ``serial()`` keeps the pair.
      backward: the layer that reads backwards, where it is not a copy of ``layer``. Each direction
        has parameters of its own, also where both are one object; the body of a ``compose`` that
        calls one child twice shares them.

    >>> import jlayers as jl
    >>> both = jl.bidirectional(jl.LSTM(16))
    >>> jl.out_spec(both, jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    if isinstance(merge, str):
        raise LayerError(f"merge must be a layer, got {merge!r}", hint=_MERGES)
    if merge is not None and merge is layer:
        raise LayerError(
            "merge must be a layer of two outputs, got the layer itself",
            hint="backward=... for the other direction, whose parameters are its own; a compose "
            "body that calls one child twice shares them",
        )
    layer = lift_child("forward", layer)
    children = {
        "forward": layer,
        # One object under two names is two layers, each with parameters and a key of its own.
        "backward": layer if backward is None else lift_child("backward", backward),
        "merge": concat() if merge is None else lift_child("merge", merge),
    }

    def body(f: Scope, x: PyTree) -> PyTree:
        for leaf in jax.tree.leaves(x, is_leaf=is_sequence):
            if leaf.ndim < 2:
                raise LayerError(
                    "takes sequences", expected="(batch, time, ...)", got=format_spec(specs_of(x))
                )
            # The only bools beside a sequence are resets of a recurrent layer.
            if leaf.dtype == bool:
                raise LayerError(
                    "resets mark where an episode starts; backwards they mark where it ends",
                    got=format_spec(specs_of(x)),
                    hint="an LSTM and one with reverse=True, each with its own resets",
                )
        ahead = f["forward"](x)
        # Arrays of a carry may have the rank of a sequence, without having its steps.
        if isinstance(ahead, tuple) and any(isinstance(part, dict) for part in ahead):
            raise LayerError(
                "gives a carry in each direction, which is not to be reversed",
                got=format_spec(specs_of(ahead)),
                hint="carried(bidirectional(layer))",
            )
        behind = f["backward"](_reversed(x))
        # An output of rank 2 is the last step's, which has no time to reverse.
        behind = _reversed(behind, of_rank=3)
        return f["merge"]((ahead, behind))

    return composite(
        body,
        children,
        rebuild=lambda new: bidirectional(new["forward"], new["merge"], backward=new["backward"]),
        whole="it reads the sequence from both ends",
    )


def _folded(x: jax.Array | Sequence, steps: int) -> jax.Array | Sequence:
    """(batch, time, ...) as (batch * time, ...): a Sequence then has a mask of its rows."""
    if not isinstance(x, Sequence):
        return x.reshape(-1, *x.shape[2:])
    mask = x.mask if x.mask.ndim == 2 else jnp.repeat(x.mask, steps)
    return x._with(x.values.reshape(-1, *x.shape[2:]), mask.reshape(-1))


def _unfolded(
    y: jax.Array | Sequence, lead: tuple[int, ...], rows: jax.Array | None
) -> jax.Array | Sequence:
    if not isinstance(y, Sequence):
        return y.reshape(*lead, *y.shape[1:])
    mask = y.mask.reshape(lead) if rows is None else rows
    return y._with(y.values.reshape(*lead, *y.shape[1:]), mask)


def _reversed(x: PyTree, of_rank: int = 2) -> PyTree:
    """The tree backwards in time, where it has sequences: arrays of that rank, and Sequences.

    Only the valid part of a Sequence is reversed.
    """

    def flip(node: jax.Array | Sequence) -> jax.Array | Sequence:
        if isinstance(node, Sequence):
            return _reverse_valid(node)
        return jnp.flip(node, 1) if node.ndim >= of_rank else node

    return jax.tree.map(flip, x, is_leaf=is_sequence)


@factory
def each_step(layer: LayerOrFunction) -> Layer:
    """``layer`` on every step of a sequence: (batch, time, ...) to (batch, time, ...).

    The steps are folded into the batch, so that the layer runs once. Transparent: parameters and
    name are the layer's own. Keras calls it ``TimeDistributed``.

    >>> import jlayers as jl
    >>> frames = jl.spec((2, 5, 16, 16, 3))
    >>> jl.out_spec(jl.each_step(jl.Conv(8, 3)), frames).shape
    (2, 5, 14, 14, 8)
    """
    layer = lift(layer)

    def body(f: Scope, x: PyTree) -> PyTree:
        leads = {leaf.shape[:2] for leaf in jax.tree.leaves(x, is_leaf=is_sequence)}
        if len(leads) != 1 or len(next(iter(leads))) != 2:
            raise LayerError(
                "takes sequences",
                expected="(batch, time, ...) with one batch and time for all inputs",
                got=format_spec(specs_of(x)),
            )
        (lead,) = leads
        # Not vmap over time: a batch norm inside sees all steps, and a product is one.
        folded = jax.tree.map(lambda leaf: _folded(leaf, lead[1]), x, is_leaf=is_sequence)
        y = f[""](folded)
        for leaf in jax.tree.leaves(y):
            if jnp.shape(leaf)[:1] != (lead[0] * lead[1],):
                raise LayerError(
                    "the layer under each_step does not keep its batch axis",
                    expected=f"{lead[0] * lead[1]} rows",
                    got=format_spec(specs_of(y)),
                )
        # Nested in another each_step the mask is of rows already, and holds for all their steps.
        masked = sequences_in(x)
        rows = masked[0].mask if masked and masked[0].mask.ndim == 1 else None
        return jax.tree.map(lambda leaf: _unfolded(leaf, lead, rows), y, is_leaf=is_sequence)

    return composite(
        body,
        {"": layer},
        name=layer.kind,
        rebuild=lambda new: each_step(new[""]),
        each_step=True,
    )


def _reverse_valid(x: Sequence) -> Sequence:
    """Each row backwards from its last valid step to its first; the padding stays where it is.

    So the reverse of the reverse is the row again, wherever its padding is, and a strided layer,
    which counts steps from the start of a row, meets the same padding in both directions.
    """
    field = x._receptive_field
    if field is not None:
        # What was ahead in time is behind in the reversed order.
        field = field._replace(lookback=field.lookahead, lookahead=field.lookback)
    if x.mask.ndim == 1:  # of rows: each is a plain sequence
        return x._with(jnp.flip(x.values, 1))._with_field(field)
    places = jnp.broadcast_to(jnp.arange(x.mask.shape[1], dtype=jnp.int32), x.mask.shape)
    # Padding may be in front, behind and, as a hole, between valid steps.
    steps = jnp.full_like(places, x.mask.shape[1])
    first = jnp.min(jnp.where(x.mask, places, steps), 1, keepdims=True)
    last = jnp.max(jnp.where(x.mask, places, -jnp.ones_like(places)), 1, keepdims=True)
    first, last = (jnp.broadcast_to(edge, places.shape) for edge in (first, last))
    inside = (places >= first) & (places <= last)
    source = jnp.where(inside, first + last - places, places)
    of_values = source.reshape(*source.shape, *(1,) * (x.ndim - 2))
    values = jnp.take_along_axis(x.values, of_values, axis=1)
    return x._with(values, jnp.take_along_axis(x.mask, source, axis=1))._with_field(field)
