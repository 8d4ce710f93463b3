"""Graphs: against dense matrices in NumPy, and against PyTorch Geometric where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

RANDOM = np.random.default_rng(0)
NODES, EDGES, WIDTH = 7, 12, 4


def draw(seed=0, loops=False, **changes):
    """A graph without an edge twice; with or without edges from a node to itself."""
    random = np.random.default_rng(seed)
    pairs = np.array([(i, j) for i in range(NODES) for j in range(NODES) if loops or i != j])
    senders, receivers = random.permutation(pairs)[:EDGES].T.astype(np.int32)
    return jl.Graph(random.normal(size=(NODES, WIDTH)), senders, receivers)._replace(**changes)


def init(layer, graph):
    """Random parameters, biases too, in float64."""
    params, state = layer.init(jax.random.key(0), graph)
    random = np.random.default_rng(5)
    return jax.tree.map(lambda a: random.normal(size=a.shape), params), state


def of(layer, params, graph):
    with jax.enable_x64(True):
        return jax.jit(lambda p, x: layer.apply(p, {}, x)[0])(params, graph)


def gradients(layer, params, graph, weights):
    """Of a projection of the nodes, in the parameters and the nodes."""
    with jax.enable_x64(True):

        def loss(params, nodes):
            y = layer.apply(params, {}, graph._replace(nodes=nodes))[0]
            return jnp.vdot(y.nodes if isinstance(y, jl.Graph) else y, weights)

        return jax.jit(jax.grad(loss, (0, 1)))(params, jnp.asarray(graph.nodes))


def dense(graph, weights=None, loops=True):
    """A[receiver, sender]; a node that has no edge to itself gets one."""
    a = np.zeros((NODES, NODES))
    for e in range(len(graph.senders)):
        a[graph.receivers[e], graph.senders[e]] += 1.0 if weights is None else weights[e]
    if loops:
        links = {(i, j) for i, j in zip(graph.receivers, graph.senders, strict=True)}
        for i in range(NODES):
            a[i, i] += (i, i) not in links
    return a


def _root(degree):
    """``D^-1/2``, 0 for a node that nothing reaches."""
    return np.where(degree > 0, np.where(degree > 0, degree, 1) ** -0.5, 0)


NORMALIZED = {
    "symmetric": lambda a: a * np.outer(*2 * [_root(a.sum(1))]),
    "mean": lambda a: a / np.where(a.sum(1) > 0, a.sum(1), 1)[:, None],
    None: lambda a: a,
}


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("features", [3, 6])
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("normalization", NORMALIZED)
def test_graph_conv(normalization, weighted, loops, features):
    graph = draw(loops=True)
    if weighted:
        graph = graph._replace(edges=np.random.default_rng(1).random(EDGES) + 0.5)
    layer = jl.GraphConv(
        features, normalization=normalization, self_loops=loops, edge_weights=weighted
    )
    params, _ = init(layer, graph)
    a = NORMALIZED[normalization](dense(graph, graph.edges, loops))
    y = of(layer, params, graph)
    wanted = a @ graph.nodes @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(y.nodes, wanted, 1e-12, 1e-12)
    assert y.senders.tolist() == graph.senders.tolist()
    weights = np.random.default_rng(2).normal(size=wanted.shape)
    of_params, of_nodes = gradients(layer, params, graph, weights)
    np.testing.assert_allclose(of_nodes, a.T @ weights @ params["kernel"].T, 1e-11, 1e-11)
    np.testing.assert_allclose(of_params["kernel"], (a @ graph.nodes).T @ weights, 1e-11, 1e-11)


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_graph_attention(dynamic, concat, loops, features):
    """Equations 1 to 6 of the first paper, and 7 of the second, node by node."""
    graph = draw(1, edges=RANDOM.normal(size=(EDGES, 2)))
    layer = jl.GraphAttention(
        2, 3, dynamic=dynamic, concat=concat, self_loops=loops, edge_features=features
    )
    params, _ = init(layer, graph)
    linked = dense(graph, None, loops) > 0

    def edge(i, j, h):
        """What the edge from j to i adds, of PyTorch Geometric's ``fill_value="mean"``."""
        if not features:
            return 0.0
        own = graph.receivers == i
        here = own & (graph.senders == j)
        at = here if here.any() else own
        value = graph.edges[at].mean(0) if at.any() else np.zeros(2)
        return value @ params["edge_kernel"][:, h]

    heads = []
    for h in range(2):
        rows = []
        for i in range(NODES):
            scores, values = [], []
            for j in np.flatnonzero(linked[i]):
                if dynamic:
                    own = graph.nodes[j] @ params["sender_kernel"][:, h]
                    to = graph.nodes[i] @ params["receiver_kernel"][:, h]
                    scores.append(params["attention"][h] @ leaky(own + to + edge(i, j, h)))
                else:
                    own = graph.nodes[j] @ params["kernel"][:, h]
                    to = graph.nodes[i] @ params["kernel"][:, h]
                    given = params["sender"][h] @ own + params["receiver"][h] @ to
                    if features:
                        given += params["edge"][h] @ edge(i, j, h)
                    scores.append(leaky(given))
                values.append(own)
            if not scores:
                rows.append(np.zeros(3))
                continue
            share = np.exp(scores) / np.exp(scores).sum()
            rows.append(share @ np.array(values))
        heads.append(rows)
    wanted = np.concatenate(heads, -1) if concat else np.mean(heads, 0)
    y = of(layer, params, graph)
    np.testing.assert_allclose(y.nodes, wanted + params["bias"], 1e-12, 1e-12)


REDUCED = {"sum": np.sum, "mean": np.mean, "max": np.max, "min": np.min}


@pytest.mark.oracle("a loop")
@pytest.mark.parametrize("reduce", REDUCED)
def test_message_passing(reduce):
    graph = draw(2, edges=RANDOM.normal(size=(EDGES, 2)))
    layer = jl.MessagePassing(
        jl.serial(jl.concat(), jl.Dense(3), jnp.tanh),
        jl.serial(jl.concat(), jl.Dense(5)),
        reduce=reduce,
    )
    params, _ = init(layer, graph)
    one, two = params["message"]["dense"], params["update"]["dense"]
    wanted = []
    for i in range(NODES):
        messages = [
            np.tanh(
                np.concatenate([graph.nodes[j], graph.nodes[i], graph.edges[e]]) @ one["kernel"]
                + one["bias"]
            )
            for e, (j, to) in enumerate(zip(graph.senders, graph.receivers, strict=True))
            if to == i
        ]
        got = REDUCED[reduce](messages, axis=0) if messages else np.zeros(3)
        wanted.append(np.concatenate([graph.nodes[i], got]) @ two["kernel"] + two["bias"])
    np.testing.assert_allclose(of(layer, params, graph).nodes, wanted, 1e-12, 1e-12)


MODELS = {
    "graph conv": jl.GraphConv(3),
    "weighted": jl.GraphConv(5, edge_weights=True, normalization="mean"),
    "attention": jl.GraphAttention(2, 3),
    "the first attention": jl.GraphAttention(2, 3, dynamic=False, self_loops=False),
    "attention by features of edges": jl.GraphAttention(2, 3, edge_features=True),
    "the first attention by features of edges": jl.GraphAttention(
        2, 3, dynamic=False, edge_features=True
    ),
    "messages": jl.MessagePassing(jl.serial(jl.add(), jl.Dense(3)), jl.serial(jl.concat())),
    "largest messages": jl.MessagePassing(jl.serial(jl.add(), jl.Dense(3)), reduce="max"),
    "on nodes": jl.on_nodes(jl.serial(jl.Dense(3), jl.LayerNorm(), jnp.tanh)),
    "among nodes": jl.on_nodes(jl.SelfAttention(2)),
}


def graph_for(name):
    if name == "weighted":
        return draw(3, edges=np.random.default_rng(1).random(EDGES) + 0.5)
    if "messages" in name or "features" in name:
        return draw(3, edges=np.random.default_rng(1).normal(size=(EDGES, WIDTH)))
    return draw(3)


@pytest.mark.parametrize("name", MODELS)
def test_other_numbers_for_the_nodes_change_nothing(name):
    layer, graph = MODELS[name], graph_for(name)
    params, _ = init(layer, graph)
    order, links = RANDOM.permutation(NODES), RANDOM.permutation(EDGES)
    place = np.argsort(order).astype(np.int32)
    moved = graph._replace(
        nodes=graph.nodes[order],
        senders=place[graph.senders][links],
        receivers=place[graph.receivers][links],
        edges=None if graph.edges is None else graph.edges[links],
    )
    wanted = of(layer, params, graph).nodes
    np.testing.assert_allclose(of(layer, params, moved).nodes, wanted[order], 1e-9, 1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_padding_reaches_no_node_and_no_gradient(name):
    layer, graph = MODELS[name], graph_for(name)
    params, _ = init(layer, graph)
    batch = jl.Graph.batch([graph], nodes=NODES + 3, edges=EDGES + 4)
    spoiled = batch._replace(nodes=np.where(batch.node_mask[:, None], batch.nodes, np.nan))
    if batch.edges is not None:
        there = batch.edge_mask.reshape(-1, *[1] * (batch.edges.ndim - 1))
        spoiled = spoiled._replace(edges=np.where(there, batch.edges, np.nan))
    # A valid edge from a padded node counts as padding too.
    masks = spoiled.edge_mask.copy()
    masks[-1], senders, receivers = True, spoiled.senders.copy(), spoiled.receivers.copy()
    receivers[-1] = 0
    spoiled = spoiled._replace(edge_mask=masks, senders=senders, receivers=receivers)
    wanted = of(layer, params, graph).nodes
    np.testing.assert_allclose(of(layer, params, spoiled).nodes[:NODES], wanted, 1e-9, 1e-9)
    weights = np.zeros((NODES + 3, wanted.shape[1]))
    weights[:NODES] = np.random.default_rng(2).normal(size=wanted.shape)
    alone = gradients(layer, params, graph, weights[:NODES])
    padded = gradients(layer, params, spoiled, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-8, 1e-8), padded[0], alone[0])
    np.testing.assert_allclose(padded[1][:NODES], alone[1], 1e-8, 1e-8)
    assert not np.any(padded[1][NODES:])


def test_graphs_side_by_side_are_what_each_is_alone():
    graphs = [draw(seed) for seed in range(3)]
    model = jl.serial(
        jl.GraphConv(5),
        jl.on_nodes(jnp.tanh),
        jl.GraphAttention(2, 3),
        jl.branch(*[jl.GraphPool(reduce) for reduce in REDUCED]),
    )
    params, _ = init(model, graphs[0])
    batch = jl.Graph.batch(graphs, nodes=30, edges=50, count=4)
    together = of(model, params, batch)
    for i, graph in enumerate(graphs):
        for got, wanted in zip(together, of(model, params, graph), strict=True):
            np.testing.assert_allclose(got[i], wanted[0], 1e-9, 1e-9)
            assert not np.any(got[3])


def test_statistics_are_of_the_nodes_that_are_there():
    graph = draw()
    layer = jl.on_nodes(jl.BatchNorm(momentum=0.0))
    params, state = layer.init(jax.random.key(0), graph)
    batch = jl.Graph.batch([graph], nodes=NODES + 5, edges=EDGES)
    batch = batch._replace(nodes=np.float32(batch.nodes + 100 * ~batch.node_mask[:, None]))
    _, after = layer.apply(params, state, batch, train=True)
    np.testing.assert_allclose(after["mean"], graph.nodes.mean(0), 1e-4, 1e-5)


def test_dropped_edges_keep_the_mean():
    graph = draw()
    layer = jl.GraphAttention(1, 2, rate=0.5)
    params, _ = layer.init(jax.random.key(0), graph)
    x = graph._replace(nodes=np.float32(graph.nodes))
    keys = jax.random.split(jax.random.key(1), 4000)
    run = jax.vmap(lambda key: layer.apply(params, {}, x, key=key, train=True)[0].nodes)
    np.testing.assert_allclose(run(keys).mean(0), layer.apply(params, {}, x)[0].nodes, 0, 0.1)


def geometric():
    torch = pytest.importorskip("torch")
    return torch, pytest.importorskip("torch_geometric.nn")


def against_geometric(module, layer, conversion, graph):
    torch, _ = geometric()
    random = np.random.default_rng(7)
    with torch.no_grad():
        for name, value in module.named_parameters():
            # It has biases of its own in the kernels, which are not in the papers.
            zero = name in ("lin_l.bias", "lin_r.bias")
            value.copy_(torch.tensor(0.0 if zero else random.normal(size=value.shape)))
    x = torch.tensor(graph.nodes, requires_grad=True)
    links = torch.tensor(np.stack([graph.senders, graph.receivers]).astype(np.int64))
    extra = () if graph.edges is None else (torch.tensor(graph.edges),)
    wanted = module(x, links, *extra)
    weights = np.random.default_rng(2).normal(size=wanted.shape)
    (wanted * torch.tensor(weights)).sum().backward()
    theirs = {name: value.detach().numpy() for name, value in module.named_parameters()}
    params = conversion(theirs)
    y = of(layer, params, graph).nodes
    np.testing.assert_allclose(y, wanted.detach().numpy(), 1e-10, 1e-10)
    of_params, of_nodes = gradients(layer, params, graph, weights)
    np.testing.assert_allclose(of_nodes, x.grad.numpy(), 1e-9, 1e-9)
    wanted_params = conversion(
        {name: value.grad.numpy() for name, value in module.named_parameters()}
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-9), of_params, wanted_params
    )


@pytest.mark.conformance
@pytest.mark.oracle("PyTorch Geometric")
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_graph_conv_against_geometric(normalize, loops, weighted):
    _, nn = geometric()
    graph = draw(4, loops=True)
    if weighted:
        graph = graph._replace(edges=np.random.default_rng(1).random(EDGES) + 0.5)
    against_geometric(
        nn.GCNConv(WIDTH, 3, normalize=normalize, add_self_loops=loops and normalize).double(),
        jl.GraphConv(
            3,
            normalization="symmetric" if normalize else None,
            self_loops=loops and normalize,
            edge_weights=weighted,
        ),
        lambda w: {"kernel": w["lin.weight"].T, "bias": w["bias"]},
        graph,
    )


@pytest.mark.conformance
@pytest.mark.oracle("PyTorch Geometric")
@pytest.mark.parametrize("loops", [True, False])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
def test_graph_attention_against_geometric(dynamic, concat, loops):
    _, nn = geometric()

    def kernel(weight):
        return weight.T.reshape(WIDTH, 2, 3)

    def conversion(w):
        if not dynamic:
            found = {
                "kernel": kernel(w["lin.weight"]),
                "sender": w["att_src"][0],
                "receiver": w["att_dst"][0],
            }
        else:
            found = {
                "sender_kernel": kernel(w["lin_l.weight"]),
                "receiver_kernel": kernel(w["lin_r.weight"]),
                "attention": w["att"][0],
            }
        return found | {"bias": w["bias"]}

    make = nn.GATv2Conv if dynamic else nn.GATConv
    against_geometric(
        make(WIDTH, 3, heads=2, concat=concat, add_self_loops=loops).double(),
        jl.GraphAttention(2, 3, dynamic=dynamic, concat=concat, self_loops=loops),
        conversion,
        draw(5, loops=True),
    )


PAIR = jl.Graph(np.ones((2, 3), np.float32), np.array([0]), np.array([1]))
WRONG = {
    "GraphConv: takes a Graph": lambda: jl.out_spec(jl.GraphConv(3), jl.spec((3, 4))),
    "nodes must be an array of rank 2": lambda: jl.out_spec(
        jl.GraphConv(3), PAIR._replace(nodes=np.ones(3))
    ),
    "takes nodes of floating numbers, got int": lambda: jl.out_spec(
        jl.GraphConv(3), PAIR._replace(nodes=np.ones((2, 3), int))
    ),
    "receivers must have 1 entries, got 2": lambda: jl.out_spec(
        jl.GraphConv(3), PAIR._replace(receivers=np.array([0, 1]))
    ),
    "node_mask must have 2 entries, got 3": lambda: jl.out_spec(
        jl.GraphPool(), PAIR._replace(node_mask=np.ones(3, bool))
    ),
    "senders must be nodes, and edge 0 has the node -1": lambda: jl.MessagePassing(jl.add()).apply(
        {}, {}, PAIR._replace(senders=np.array([-1]))
    ),
    "receivers must be nodes, and edge 0 has the node 2": lambda: jl.GraphConv(3).apply(
        *jl.GraphConv(3).init(jax.random.key(0), PAIR), PAIR._replace(receivers=np.array([2]))
    ),
    "on_nodes(layer) for the nodes of a graph": lambda: jl.out_spec(jl.Dense(3), PAIR),
    "edges must hold a weight for each edge, (edges,)": lambda: jl.out_spec(
        jl.GraphConv(3, edge_weights=True), PAIR
    ),
    "edges must hold the features of each edge": lambda: jl.out_spec(
        jl.GraphAttention(1, 2, edge_features=True), PAIR._replace(edges=np.ones(1, np.float32))
    ),
    "unknown normalization 'both'": lambda: jl.GraphConv(3, normalization="both"),
    "unknown reduce 'median'": lambda: jl.GraphPool("median"),
    "message must give one array (edges, ...)": lambda: jl.out_spec(
        jl.MessagePassing(lambda pair: pair), PAIR
    ),
    "update must give one array (nodes, ...)": lambda: jl.out_spec(
        jl.MessagePassing(jl.add(), lambda pair: pair[0][:1]), PAIR
    ),
    "the layer must give (1, nodes, ...)": lambda: jl.out_spec(
        jl.on_nodes(jl.GlobalAvgPool()), PAIR
    ),
    "needs a key in training": lambda: jl.GraphAttention(1, 2, rate=0.5).apply(
        jl.GraphAttention(1, 2).init(jax.random.key(0), PAIR)[0], {}, PAIR, train=True
    ),
    "takes one graph or more, got none": lambda: jl.Graph.batch([]),
    "4 nodes do not fit into 3": lambda: jl.Graph.batch([PAIR, PAIR], nodes=3),
    "padded edges need a padded node": lambda: jl.Graph.batch([PAIR], edges=3),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_fit_is_an_error(text):
    with pytest.raises(jl.LayerError) as caught:
        WRONG[text]()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "layer", [jl.GraphConv(3), jl.GraphAttention(1, 3), jl.MessagePassing(lambda ends: ends[0])]
)
def test_ends_outside_the_nodes_under_jit(layer):
    """A sender gives NaN where its message arrives, a receiver nothing; padding may have any."""
    nodes = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = jl.Graph(nodes, np.array([0, 1, 2]), np.array([1, 2, 3]), edge_mask=np.ones(3, bool))
    params, state = layer.init(jax.random.key(0), graph)
    apply = jax.jit(lambda graph: layer.apply(params, state, graph)[0].nodes)
    lost = np.array([True, True, False])
    without = apply(graph._replace(edge_mask=lost))
    for end in (-1, 4, 9):
        outside = np.array([0, 1, end])
        y = apply(graph._replace(senders=outside))
        np.testing.assert_array_equal(np.isnan(y).all(1), [False, False, False, True])
        moved = graph._replace(receivers=np.array([1, 2, end]))
        np.testing.assert_allclose(apply(moved)[:3], without[:3], rtol=1e-5, atol=1e-6)
        padded = graph._replace(senders=outside, receivers=np.array([1, 2, end]), edge_mask=lost)
        np.testing.assert_allclose(apply(padded), without, rtol=1e-5, atol=1e-6)
        eager, _ = layer.apply(params, state, padded)
        np.testing.assert_allclose(eager.nodes, without, rtol=1e-5)
