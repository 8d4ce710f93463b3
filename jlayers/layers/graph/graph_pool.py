"""GraphPool: one row for each graph, from its nodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...base.arguments import one_of
from ...base.constructors import no_params, pure
from ...base.factory import factory
from ...base.layer import Layer
from ...base.sequence_mode import SequenceMode
from ...base.types import Params
from ...core.segments import REDUCTIONS, segment_reduce
from .graph import Graph, check_graph, filled_nodes


@factory
def GraphPool(reduce: str = "mean") -> Layer:
    """The sum, mean, maximum or minimum of the nodes of each graph, padding left out.

    Args:
      reduce: ``"sum"``, ``"mean"``, ``"max"`` or ``"min"``; zeros for a graph without nodes.

    Shapes:
      x: a ``Graph`` with nodes (nodes, features). y: (graphs, features), one row without
      ``graph_ids``; of the dtype of the nodes.

    Raises:
      LayerError: for an unknown reduction, and anything but a ``Graph``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> pair = jl.Graph(jnp.array([[1.0], [2.0]]), jnp.array([0]), jnp.array([1]))
    >>> jl.GraphPool("sum").apply({}, {}, jl.Graph.batch([pair, pair]))[0].tolist()
    [[3.0], [3.0]]
    """
    one_of("reduce", reduce, REDUCTIONS)

    def apply(params: Params, x: Graph) -> jax.Array:
        check_graph(x)
        count, ids = 1, jnp.zeros(x.nodes.shape[:1], jnp.int32)
        if x.graph_ids is not None and x.graph_mask is not None:
            count, ids = x.graph_mask.shape[0], x.graph_ids
        return segment_reduce(filled_nodes(x), ids, x.node_mask, count=count, reduce=reduce)

    return pure(
        no_params,
        apply,
        sequence_mode=SequenceMode.WHOLE,
        stream="it is one row for each graph",
    )
