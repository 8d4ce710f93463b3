"""GraphAttention: each node attends to those that have an edge to it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from ...base.arguments import Fraction, NonNegative, Positive
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.parameters import initialize
from ...base.sequence_mode import SequenceMode
from ...base.specs import cast_like, format_spec
from ...base.types import Initializer, Key, Params, PyTree, State
from ...core.segments import segment_reduce, segment_softmax
from .graph import Graph, at_ends, check_graph, filled, filled_nodes, valid_edges, with_loops


@factory
def GraphAttention(
    num_heads: Positive,
    head_dim: Positive,
    *,
    dynamic: bool = True,
    concat: bool = True,
    self_loops: bool = True,
    edge_features: bool = False,
    negative_slope: NonNegative = 0.2,
    rate: Fraction = 0.0,
    bias: bool = True,
    kernel_init: Initializer = initializers.glorot_uniform(),
    bias_init: Initializer = initializers.zeros,
) -> Layer:
    """Attention along the edges of a graph (GATv2; Brody et al., 2022, arXiv:2105.14491).

    For an edge from j to i, in each head::

        score = attention . leaky_relu(h_j @ sender_kernel + h_i @ receiver_kernel)
        h_i' = sum_j softmax_j(score) (h_j @ sender_kernel)

    With ``dynamic=False`` it is the first one (GAT; Velickovic et al., 2018, arXiv:1710.10903),
    with one kernel for both::

        score = leaky_relu(sender . (h_j @ kernel) + receiver . (h_i @ kernel))

    Args:
      num_heads, head_dim: of the attention.
      dynamic: whether the nonlinearity comes before the product with ``attention``, so that the
        order of the senders may be another one for each receiver.
      concat: whether heads are put side by side; otherwise they are averaged.
      self_loops: whether each node without an edge to itself gets one; its features are the mean
        of those of the edges that reach the node.
      edge_features: whether ``edges @ edge_kernel`` is added before the nonlinearity; without
        ``dynamic``, its product with ``edge``.
      negative_slope: of the leaky ReLU.
      rate: the probability of dropping an edge's weight in training.
      bias: whether there is one.
      kernel_init, bias_init: as in ``jax.nn.initializers``.

    Shapes:
      x: a ``Graph`` with nodes (nodes, in), floating. y: the same with nodes (nodes, num_heads *
      head_dim), or (nodes, head_dim) without ``concat``, of the dtype of those of ``x``.
      params: sender_kernel and receiver_kernel (in, num_heads, head_dim), attention (num_heads,
      head_dim); without ``dynamic`` kernel (in, num_heads, head_dim), sender and receiver
      (num_heads, head_dim); with ``edge_features`` edge_kernel (of edges, num_heads, head_dim), and
      without ``dynamic`` edge (num_heads, head_dim); bias (features of y,).

    Raises:
      LayerError: for anything but a ``Graph``, edges without features (edges, of edges) where there
        must be some, and in training without a key, with a ``rate``.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> x = jl.Graph(jnp.ones((3, 4)), jnp.array([0, 1]), jnp.array([1, 2]))
    >>> jl.out_spec(jl.GraphAttention(2, 5), x).nodes.shape
    (3, 10)
    """
    features = num_heads * head_dim if concat else head_dim

    def init(key: jax.Array, x: Any) -> tuple[Params, State]:
        check_graph(x)
        kernel = (kernel_init, (x.nodes.shape[1], num_heads, head_dim))
        vector = (kernel_init, (num_heads, head_dim))
        names = (
            {"sender_kernel": kernel, "receiver_kernel": kernel, "attention": vector}
            if dynamic
            else {"kernel": kernel, "sender": vector, "receiver": vector}
        )
        if edge_features:
            _check_edges(x)
            names["edge_kernel"] = (kernel_init, (x.edges.shape[1], num_heads, head_dim))
            if not dynamic:
                names["edge"] = vector
        own_bias = (bias_init, (features,)) if bias else None
        return initialize(key, x.nodes, **names, bias=own_bias), {}

    def apply(
        params: Params, state: State, x: PyTree, *, key: Key, train: bool
    ) -> tuple[PyTree, State]:
        own = cast_like(params, x.nodes)
        nodes, count = filled_nodes(x), x.nodes.shape[0]
        graph = with_loops(x)[0] if self_loops else x
        senders, receivers, valid = graph.senders, graph.receivers, valid_edges(graph)

        def project(name: str, values: jax.Array = nodes) -> jax.Array:
            return jnp.einsum("nf,fhd->nhd", values, own[name])

        def sent(values: jax.Array) -> jax.Array:
            return at_ends(values, senders, valid)

        def received(values: jax.Array) -> jax.Array:
            return at_ends(values, receivers, valid)

        def leaky(scores: jax.Array) -> jax.Array:
            return jax.nn.leaky_relu(scores, negative_slope)

        if dynamic:
            values = project("sender_kernel")
            mixed = sent(values) + received(project("receiver_kernel"))
            if edge_features:
                mixed = mixed + project("edge_kernel", _features(x, self_loops))
            scores = jnp.einsum("ehd,hd->eh", leaky(mixed), own["attention"])
        else:
            values = project("kernel")
            given = jnp.einsum("nhd,hd->nh", values, own["sender"])
            taken = jnp.einsum("nhd,hd->nh", values, own["receiver"])
            scores = sent(given) + received(taken)
            if edge_features:
                # As one product: of an edge nothing else is needed.
                kernel = jnp.einsum("fhd,hd->fh", own["edge_kernel"], own["edge"])
                scores = scores + _features(x, self_loops) @ kernel
            scores = leaky(scores)
        weights = segment_softmax(scores, receivers, valid, count=count)
        if train and rate:
            if key is None:
                raise LayerError("needs a key in training", hint="apply(..., key=key, train=True)")
            kept = jax.random.bernoulli(key, 1 - rate, weights.shape)
            weights = jnp.where(kept, weights / (1 - rate), jnp.zeros_like(weights))
        messages = sent(values) * jnp.broadcast_to(weights[..., None], (*weights.shape, head_dim))
        y = segment_reduce(messages, receivers, valid, count=count)
        y = y.reshape(count, features) if concat else jnp.mean(y, 1)
        if bias:
            y = y + jnp.broadcast_to(own["bias"], y.shape)
        return x._replace(nodes=y), state

    return Layer(init, apply, sequence_mode=SequenceMode.WHOLE, stream="it is a layer of graphs")


def _features(x: Graph, self_loops: bool) -> jax.Array:
    """Values of edges, in the dtype of the nodes, and with ``self_loops`` one for each node."""
    valid = valid_edges(x)
    edges = filled(x.edges, valid).astype(x.nodes.dtype)
    if not self_loops:
        return edges
    mean = segment_reduce(edges, x.receivers, valid, count=x.nodes.shape[0], reduce="mean")
    return jnp.concatenate([edges, mean])


def _check_edges(x: Graph) -> None:
    floating = x.edges is not None and jnp.issubdtype(x.edges.dtype, jnp.floating)
    if not floating or len(x.edges.shape) != 2:
        raise LayerError(
            "edges must hold the features of each edge",
            expected="floating (edges, features)",
            got=format_spec(x.edges),
        )
