"""Graph: nodes, and edges between them, of one graph or of several in one."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...base.errors import LayerError, public_api
from ...base.specs import format_spec
from ...base.types import PyTree


class Graph(NamedTuple):
    """A directed graph, or several side by side without an edge between them.

    An undirected edge is two, one each way. Arrays without meaning for a graph are None.
    Values of padded nodes and edges, NaN included, reach no other node.

    Attributes:
      nodes: values of each node, (nodes, ...).
      senders, receivers: ints (edges,), from where to where an edge goes. An end outside the nodes
        is an error where values are known; under ``jit`` such a sender gives NaN, and an edge to
        such a receiver is left out.
      edges: values of each edge, (edges, ...); a weight of each for ``GraphConv``, (edges,).
      node_mask, edge_mask: bools (nodes,) and (edges,), False for padding. An edge of a padded
        node counts as padding too.
      graph_ids: ints (nodes,), to which of several graphs a node belongs.
      graph_mask: bools (graphs,), False for padding; its size is the number of graphs.

    >>> import jax.numpy as jnp, jlayers as jl
    >>> pair = jl.Graph(jnp.ones((2, 3)), jnp.array([0]), jnp.array([1]))
    >>> batch = jl.Graph.batch([pair, pair], nodes=6, edges=4)
    >>> batch.senders.tolist(), batch.edge_mask.tolist(), batch.graph_ids.tolist()
    ([0, 2, 5, 5], [True, True, False, False], [0, 0, 1, 1, 1, 1])
    """

    nodes: Any
    senders: Any
    receivers: Any
    edges: Any = None
    node_mask: Any = None
    edge_mask: Any = None
    graph_ids: Any = None
    graph_mask: Any = None

    @classmethod
    @public_api
    def batch(
        cls,
        graphs: Rows[Graph],
        *,
        nodes: int | None = None,
        edges: int | None = None,
        count: int | None = None,
    ) -> Graph:
        """Several graphs side by side in one, padded to sizes that many batches share.

        Args:
          graphs: of one graph each, all with edge values or none, on the host.
          nodes, edges, count: to how many nodes, edges and graphs the result is padded; by default
            as many as there are.

        Returns:
          A Graph of NumPy arrays with all masks. Padded edges go from the last node to itself.

        Raises:
          LayerError: for no graphs, more nodes, edges or graphs than asked for, and padded edges
            without a padded node.
        """
        if not graphs:
            raise LayerError("Graph.batch takes one graph or more, got none")
        sizes = np.array([len(graph.nodes) for graph in graphs])
        links = np.array([len(graph.senders) for graph in graphs])
        wanted = {}
        for what, have, want in (
            ("nodes", sizes.sum(), nodes),
            ("edges", links.sum(), edges),
            ("graphs", len(graphs), count),
        ):
            wanted[what] = int(have) if want is None else want
            if have > wanted[what]:
                raise LayerError(f"Graph.batch: {have} {what} do not fit into {wanted[what]}")
        more = wanted["edges"] - links.sum()
        if more and wanted["nodes"] == sizes.sum():
            raise LayerError(
                "Graph.batch: padded edges need a padded node",
                hint=f"nodes={sizes.sum() + 1} or more",
            )
        first = np.cumsum(sizes) - sizes

        def joined(parts: list[Any], size: int, fill: Any = 0) -> np.ndarray:
            made = np.concatenate([np.asarray(part) for part in parts])
            widths = [(0, size - len(made)), *((0, 0),) * (made.ndim - 1)]
            return np.pad(made, widths, constant_values=fill)

        def ends(name: str) -> np.ndarray:
            parts = [
                np.asarray(getattr(graph, name)) + start
                for graph, start in zip(graphs, first, strict=True)
            ]
            return joined(parts, wanted["edges"], wanted["nodes"] - 1).astype(np.int32)

        def mask(name: str, counts: np.ndarray, size: int) -> np.ndarray:
            own = [getattr(graph, name) for graph in graphs]
            parts = [
                np.ones(n, bool) if one is None else one for one, n in zip(own, counts, strict=True)
            ]
            return joined(parts, size, False)

        ids = np.repeat(np.arange(len(graphs), dtype=np.int32), sizes)
        last = min(len(graphs), wanted["graphs"] - 1)
        return cls(
            joined([graph.nodes for graph in graphs], wanted["nodes"]),
            ends("senders"),
            ends("receivers"),
            None
            if graphs[0].edges is None
            else joined([graph.edges for graph in graphs], wanted["edges"]),
            mask("node_mask", sizes, wanted["nodes"]),
            mask("edge_mask", links, wanted["edges"]),
            np.pad(ids, (0, wanted["nodes"] - len(ids)), constant_values=last),
            np.arange(wanted["graphs"]) < len(graphs),
        )


def filled_nodes(graph: Graph) -> jax.Array:
    """The nodes' values with zeros in the padding.

    Raises:
      LayerError: for an edge that counts and has an end outside the nodes, where ends are known.
    """
    _check_ends(graph)
    return filled(graph.nodes, graph.node_mask)


def filled(values: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Values of nodes or edges with zeros where they do not count."""
    if mask is None:
        return values
    shaped = mask.reshape(-1, *(1,) * (values.ndim - 1))
    return jnp.where(jnp.broadcast_to(shaped, values.shape), values, jnp.zeros_like(values))


def at_ends(values: Any, ends: Any, valid: jax.Array | None) -> jax.Array:
    """The values (edges, ...) of nodes at the ends of edges; NaN for an end that is not a node."""
    if valid is not None:
        ends = jnp.where(valid, ends, jnp.zeros_like(ends))  # padding may have any ends
    # Otherwise JAX would count a negative end from the last node, and clip one that is too large.
    found: jax.Array = (
        jnp.asarray(values)
        .at[ends]
        .get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    )
    return found


def _check_ends(graph: Graph) -> None:
    count = graph.nodes.shape[0]
    for name in ("senders", "receivers"):
        known = [getattr(graph, name), graph.edge_mask]
        if any(
            isinstance(value, jax.core.Tracer) or not getattr(value, "is_fully_addressable", True)
            for value in known
        ):
            continue
        ends = np.asarray(known[0])
        outside = (ends < 0) | (ends >= count)
        if graph.edge_mask is not None:
            outside &= np.asarray(graph.edge_mask)
        if outside.any():
            edge = int(outside.argmax())
            raise LayerError(
                f"{name} must be nodes, and edge {edge} has the node {ends[edge]}",
                expected=f"ints from 0 to {count - 1}",
                got=format_spec(graph),
                hint="indices start at 0; Graph.batch(graphs) counts on from graph to graph",
            )


def valid_edges(graph: Graph) -> jax.Array | None:
    """Which edges count: not padding, and without a padded node; None for all."""
    valid: jax.Array | None = graph.edge_mask
    if graph.node_mask is not None:
        # Not padding, where an end is outside the nodes: its edge would be left out in silence.
        own: Any = jnp.asarray(graph.node_mask)
        how = {"mode": "fill", "fill_value": True, "wrap_negative_indices": False}
        ends = own.at[graph.senders].get(**how) & own.at[graph.receivers].get(**how)
        valid = ends if valid is None else valid & ends
    return valid


def with_loops(graph: Graph, weights: jax.Array | None = None) -> tuple[Graph, jax.Array | None]:
    """The graph with an edge from each node to itself, unless there is one, and their weights."""
    count, links = graph.nodes.shape[0], graph.senders.shape[0]
    every = jnp.arange(count, dtype=graph.senders.dtype)
    valid = valid_edges(graph)
    valid = jnp.ones(links, bool) if valid is None else valid
    own = valid & (graph.senders == graph.receivers)
    has = jax.ops.segment_max(own.astype(jnp.int32), graph.senders, count) > 0
    missing = ~has if graph.node_mask is None else ~has & graph.node_mask
    found = graph._replace(
        senders=jnp.concatenate([graph.senders, every]),
        receivers=jnp.concatenate([graph.receivers, every]),
        edges=None,
        edge_mask=jnp.concatenate([valid, missing]),
    )
    if weights is None:
        return found, None
    return found, jnp.concatenate([weights, jnp.ones(count, weights.dtype)])


def check_graph(x: PyTree) -> None:
    """Raises for an input that is not a graph with floating values (nodes, features)."""
    if not isinstance(x, Graph):
        raise LayerError(
            "takes a Graph", got=format_spec(x), hint="jl.Graph(nodes, senders, receivers)"
        )
    shapes = {
        "nodes": (x.nodes, 2),
        "senders": (x.senders, 1),
        "receivers": (x.receivers, 1),
    }
    for name, (value, rank) in shapes.items():
        if not hasattr(value, "shape") or len(value.shape) != rank:
            raise LayerError(
                f"{name} must be an array of rank {rank}",
                expected="(nodes, features) and (edges,)",
                got=format_spec(value),
            )
    if not jnp.issubdtype(x.nodes.dtype, jnp.inexact):
        raise LayerError(f"takes nodes of floating numbers, got {x.nodes.dtype}")
    for name, value, like in (
        ("receivers", x.receivers, x.senders),
        ("edge_mask", x.edge_mask, x.senders),
        ("edges", x.edges, x.senders),
        ("node_mask", x.node_mask, x.nodes),
        ("graph_ids", x.graph_ids, x.nodes),
    ):
        if value is not None and value.shape[:1] != like.shape[:1]:
            raise LayerError(
                f"{name} must have {like.shape[0]} entries, got {value.shape[0]}",
                got=format_spec(x),
            )
