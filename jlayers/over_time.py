"""Wrappers of layers for sequences, (batch, time, ...)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from .compose import composite
from .errors import LayerError
from .factory import factory
from .layer import Layer
from .lifting import lift, lift_child
from .merges import concat
from .namespace import Namespace
from .sequence import Sequence, is_sequence
from .specs import PyTree, show, specs_of


@factory
def bidirectional(layer: Any, merge: Any = None, *, backward: Any = None) -> Layer:
    """``layer`` forwards and a second copy backwards in time, merged.

    The backward copy reads the steps in reverse order; its outputs are put back into the order
    of the input. The children are named ``forward`` and ``backward``; an output of rank 2 is the
    last step's, one of rank 3 and up is a sequence (batch, time, ...).

    Args:
      layer: a layer on sequences, (batch, time, ...).
      merge: a layer on the pair (forward, backward); ``concat()`` along the features by default.
        ``serial()`` keeps the pair.
      backward: the layer that reads backwards, where it is not a copy of ``layer``.

    >>> import jlayers as jl
    >>> both = jl.bidirectional(jl.LSTM(16))
    >>> jl.out_spec(both, jl.spec((4, 10, 8))).shape
    (4, 10, 32)
    """
    layer = lift_child("forward", layer)
    children = {
        "forward": layer,
        "backward": layer if backward is None else lift_child("backward", backward),
        "merge": concat() if merge is None else lift_child("merge", merge),
    }

    def body(f: Namespace, x: PyTree) -> PyTree:
        for leaf in jax.tree.leaves(x):
            if jnp.ndim(leaf) < 2:
                raise LayerError(
                    "takes sequences", expected="(batch, time, ...)", got=show(specs_of(x))
                )
        ahead = f["forward"](x)
        behind = f["backward"](_reversed(x))
        behind = _reversed(behind, of_rank=3)
        return f["merge"]((ahead, behind))

    return composite(
        body,
        children,
        rebuild=lambda new: bidirectional(new["forward"], new["merge"], backward=new["backward"]),
        unstreamed="it reads the sequence from both ends",
    )


def _reversed(x: PyTree, of_rank: int = 2) -> PyTree:
    """The tree backwards in time, where it has sequences: arrays of that rank, and Sequences.

    The padding of a Sequence comes first then, which is the same to a layer: padding is no step.
    """

    def flip(node: Any) -> Any:
        if isinstance(node, Sequence):
            return node._reversed()
        return jnp.flip(node, 1) if node.ndim >= of_rank else node

    return jax.tree.map(flip, x, is_leaf=is_sequence)


@factory
def each_step(layer: Any) -> Layer:
    """``layer`` on every step of a sequence: (batch, time, ...) to (batch, time, ...).

    The steps are folded into the batch, so that the layer runs once. Transparent: parameters and
    name are the layer's own. Keras calls it ``TimeDistributed``.

    >>> import jlayers as jl
    >>> frames = jl.spec((2, 5, 16, 16, 3))
    >>> jl.out_spec(jl.each_step(jl.Conv(8, 3)), frames).shape
    (2, 5, 14, 14, 8)
    """
    layer = lift(layer)

    def body(f: Namespace, x: PyTree) -> PyTree:
        leads = {jnp.shape(leaf)[:2] for leaf in jax.tree.leaves(x)}
        if len(leads) != 1 or len(next(iter(leads))) != 2:
            raise LayerError(
                "takes sequences",
                expected="(batch, time, ...) with one batch and time for all inputs",
                got=show(specs_of(x)),
            )
        (lead,) = leads
        folded = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), x)
        y = f[""](folded)
        for leaf in jax.tree.leaves(y):
            if jnp.shape(leaf)[:1] != (lead[0] * lead[1],):
                raise LayerError(
                    "the layer under each_step does not keep its batch axis",
                    expected=f"{lead[0] * lead[1]} rows",
                    got=show(specs_of(y)),
                )
        return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), y)

    return composite(
        body,
        {"": layer},
        name=layer.kind,
        rebuild=lambda new: each_step(new[""]),
        each_step=True,
    )
