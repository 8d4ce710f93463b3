"""on_nodes: a layer, or a function, of the nodes of a graph."""

from __future__ import annotations

from ...base.constructors import LayerOrFunction, lift
from ...base.errors import LayerError
from ...base.factory import factory
from ...base.layer import Layer
from ...base.scope import Scope, composite
from ...base.sequence import Sequence, split
from ...base.specs import format_short, specs_of
from .graph import Graph, check_graph


@factory
def on_nodes(layer: LayerOrFunction) -> Layer:
    """``layer`` on the nodes of a graph, and all else as it is.

    The nodes are the steps of one sequence, (1, nodes, ...), with a mask where they have one: so
    ``Dense`` and functions act on each node, ``BatchNorm`` has the statistics of the nodes that
    are there, and ``SelfAttention`` lets each of them attend to all others. The parameters are the
    layer's own.

    Args:
      layer: a layer, or a function of one array.

    Shapes:
      x: a ``Graph``. y: the same with nodes (nodes, ...) of the layer.

    Raises:
      LayerError: for anything but a ``Graph``, and a layer that does not give (1, nodes, ...).

    >>> import jax, jax.numpy as jnp, jlayers as jl
    >>> model = jl.serial(
    ...     jl.GraphConv(16), jl.on_nodes(jl.serial(jl.BatchNorm(), jax.nn.relu)), jl.GraphConv(3))
    >>> x = jl.Graph(jnp.ones((3, 4)), jnp.array([0, 1]), jnp.array([1, 2]))
    >>> jl.out_spec(model, x).nodes.shape
    (3, 3)
    """
    layer = lift(layer)

    def body(f: Scope, x: Graph) -> Graph:
        check_graph(x)
        nodes = x.nodes[None]
        y = f[""](nodes if x.node_mask is None else Sequence(nodes, x.node_mask[None]))
        values, _ = split(y)
        if not hasattr(values, "shape") or values.shape[:2] != nodes.shape[:2]:
            raise LayerError(
                "the layer must give (1, nodes, ...)",
                got=format_short(specs_of(y)),
                hint="GraphPool() for one row of each graph",
            )
        return x._replace(nodes=values[0])

    return composite(
        body,
        {"": layer},
        name=layer.kind,
        rebuild=lambda new: on_nodes(new[""]),
        unstreamed="it is a layer of graphs",
    )
