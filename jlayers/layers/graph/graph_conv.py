"""GraphConv: the graph convolution of Kipf and Welling."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import Positive
from ...base.constructors import pure
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence_mode import SequenceMode
from ...base.specs import cast_like, format_short, format_spec
from ...base.types import Initializer, Params
from ...core.dense import dense
from ...core.dtypes import at_least_float32, is_symbolic
from ...core.segments import segment_reduce
from .graph import Graph, at_ends, check_graph, filled, filled_nodes, valid_edges, with_loops

NORMALIZATIONS = ("symmetric", "mean", None)


@factory
def GraphConv(
    features: Positive,
    *,
    normalization: str | None = "symmetric",
    self_loops: bool = True,
    edge_weights: bool = False,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """``H' = D^-1/2 A D^-1/2 H W + b`` (GCN; Kipf & Welling, 2017, arXiv:1609.02907).

    A has the weights of the edges, ``A[receiver, sender]``, and D the sums of its rows.

    Args:
      features: of each node of the output.
      normalization: ``"symmetric"`` as above, ``"mean"`` for ``D^-1 A H W``, None for ``A H W``.
      self_loops: whether each node without an edge to itself gets one, of weight 1.
      edge_weights: whether ``edges`` holds a weight for each edge, (edges,); 1 otherwise.
      bias: whether there is one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: a ``Graph`` with nodes (nodes, in), floating. y: the same with nodes (nodes, features), of
      the dtype of those of ``x``; padded nodes receive nothing.
      params: kernel (in, features), bias (features,).

    Raises:
      LayerError: for an unknown normalisation, anything but a ``Graph``, and edge weights of
        another shape.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jl.Graph(jnp.ones((3, 4)), jnp.array([0, 1]), jnp.array([1, 2]))
    >>> jl.out_spec(jl.GraphConv(5), x).nodes.shape
    (3, 5)
    """
    if normalization not in NORMALIZATIONS:
        raise LayerError(
            f"unknown normalization {format_short(normalization)}",
            expected=", ".join(map(repr, NORMALIZATIONS)),
        )

    def init(key: jax.Array, x: Any) -> Params:
        check_graph(x)
        if edge_weights and (x.edges is None or x.edges.shape != x.senders.shape):
            raise LayerError(
                "edges must hold a weight for each edge, (edges,)", got=format_spec(x.edges)
            )
        return initialize(
            key,
            x.nodes,
            kernel=(kernel_init, (x.nodes.shape[1], features)),
            bias=(bias_init, (features,)) if bias else None,
        )

    def apply(params: Params, x: Graph) -> Graph:
        own = cast_like(params, x.nodes)
        nodes = filled_nodes(x)
        wide = at_least_float32(nodes.dtype)
        # Zeros where they do not count, or they would be in the gradient of the nodes.
        weights = filled(x.edges.astype(wide), valid_edges(x)) if edge_weights else None
        graph = x
        if self_loops:
            graph, weights = with_loops(x, weights)
        valid = valid_edges(graph)
        count = nodes.shape[0]
        if weights is None:
            weights = jnp.ones(graph.senders.shape, wide)
        weights = _normalized(weights, graph, valid, count)

        def gathered(values: jax.Array) -> jax.Array:
            messages = at_ends(values, graph.senders, valid).astype(wide) * weights[:, None]
            total = segment_reduce(messages, graph.receivers, valid, count=count)
            return total.astype(nodes.dtype)

        # The product and the sum change places: messages are as narrow as they can be.
        narrow_first = is_symbolic(nodes.shape[1]) or features <= nodes.shape[1]
        if narrow_first:
            y = gathered(dense(nodes, own["kernel"]))
        else:
            y = dense(gathered(nodes), own["kernel"])
        if bias:
            y = y + jnp.broadcast_to(own["bias"], y.shape)
        return x._replace(nodes=y)

    def _normalized(
        weights: jax.Array, graph: Graph, valid: jax.Array | None, count: int
    ) -> jax.Array:
        if normalization is None:
            return weights
        degree = segment_reduce(weights, graph.receivers, valid, count=count)
        # A node that nothing reaches counts as 0, as in the authors' program.
        some = degree > 0
        degree = jnp.where(some, degree, jnp.ones_like(degree))
        if normalization == "mean":
            return weights / at_ends(degree, graph.receivers, valid)
        root = jnp.where(some, jax.lax.rsqrt(degree), jnp.zeros_like(degree))
        weights = weights * at_ends(root, graph.senders, valid)
        return weights * at_ends(root, graph.receivers, valid)

    return pure(init, apply, sequence_mode=SequenceMode.WHOLE, stream="it is a layer of graphs")
