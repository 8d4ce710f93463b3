"""MessagePassing: messages along the edges of a graph, and what nodes make of them."""

from __future__ import annotations

import jax

from ...base.arguments import one_of
from ...base.constructors import LayerOrFunction, lift_child
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.scope import Scope, composite
from ...base.specs import format_short, specs_of
from ...core.segments import REDUCTIONS, segment_reduce
from .graph import Graph, at_ends, check_graph, filled, filled_nodes, valid_edges


@factory
def MessagePassing(
    message: LayerOrFunction,
    update: LayerOrFunction | None = None,
    *,
    reduce: str = "sum",
) -> Layer:
    """A step of message passing (Gilmer et al., 2017, arXiv:1704.01212).

    ``h_i' = update((h_i, reduce_j(message((h_j, h_i, e_ji)))))`` over the edges from j to i. The
    children are named ``message`` and ``update``.

    Args:
      message: a layer from (nodes of the senders, of the receivers), (edges, ...) each, to
        (edges, ...); where the graph has edge values, these are the third of the tuple.
        ``concat()`` puts them side by side.
      update: a layer from (nodes, what they received), (nodes, ...) each, to (nodes, ...); by
        default what they received.
      reduce: ``"sum"``, ``"mean"``, ``"max"`` or ``"min"``; zeros for a node without an edge to it.

    Shapes:
      x: a ``Graph``. y: the same with other nodes.

    Raises:
      LayerError: for an unknown reduction, anything but a ``Graph``, and children whose output has
        not as many rows as there are edges, or nodes.

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> step = jl.MessagePassing(
    ...     jl.serial(jl.concat(), jl.Dense(8), jax.nn.relu), jl.serial(jl.concat(), jl.Dense(8)))
    >>> x = jl.Graph(jnp.ones((3, 4)), jnp.array([0, 1]), jnp.array([1, 2]))
    >>> jl.out_spec(step, x).nodes.shape
    (3, 8)
    """
    one_of("reduce", reduce, REDUCTIONS)
    children = {"message": lift_child("message", message)}
    if update is not None:
        children["update"] = lift_child("update", update)

    def body(f: Scope, x: Graph) -> Graph:
        check_graph(x)
        nodes = filled_nodes(x)
        valid = valid_edges(x)
        ends = (at_ends(nodes, x.senders, valid), at_ends(nodes, x.receivers, valid))
        # Zeros where they do not count, or they would be in the gradient of the message's kernel.
        own = () if x.edges is None else (filled(x.edges, valid),)
        messages = f["message"]((*ends, *own))
        _check_rows("message", messages, x.senders.shape[0], "edges")
        received = segment_reduce(messages, x.receivers, valid, count=nodes.shape[0], reduce=reduce)
        if "update" in children:
            received = f["update"]((nodes, received))
            _check_rows("update", received, nodes.shape[0], "nodes")
        return x._replace(nodes=received)

    return composite(
        body,
        children,
        rebuild=lambda new: MessagePassing(new["message"], new.get("update"), reduce=reduce),
        unstreamed="it is a layer of graphs",
    )


def _check_rows(name: str, y: jax.Array, count: int, what: str) -> None:
    if not hasattr(y, "shape") or y.shape[:1] != (count,):
        raise LayerError(
            f"{name} must give one array ({what}, ...)",
            expected=f"[{count}, ...]",
            got=format_short(specs_of(y)),
        )
