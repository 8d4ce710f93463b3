"""Linear layers and embeddings against PyTorch, in float64: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import F64, check, load_random  # noqa: E402

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


IDS = np.array([[1, 0, 3, 3], [4, 1, 1, 2]])


@pytest.mark.parametrize("padding_id", [None, 1, -1])
def test_embedding_with_a_padding_id(padding_id):
    module = nn.Embedding(5, 3, padding_idx=padding_id, **F64)
    layer = jl.Embedding(5, 3, padding_id=padding_id)
    # The row holds random values, as an imported one may: both give it, without a gradient.
    check(module, layer, IDS, convert.torch_embedding)
    fresh = layer.init(jax.random.key(0), jl.spec((2,), jnp.int32))[0]["embedding"]
    zeros = (np.asarray(fresh) == 0).all(1)
    assert zeros.sum() == (padding_id is not None)
    assert padding_id is None or zeros[padding_id]


class InABall(nn.Module):
    """``nn.Embedding(max_norm=)`` as a function of the lookup: PyTorch scales the table itself."""

    def __init__(self, max_norm, norm_type):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, **F64))
        self.max_norm, self.norm_type = max_norm, norm_type

    def forward(self, ids):
        norm = self.weight.norm(self.norm_type, 1, keepdim=True)
        scale = torch.where(norm > self.max_norm, self.max_norm / (norm + 1e-7), 1.0)
        return nn.functional.embedding(ids, self.weight * scale)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, float("inf")])
def test_embedding_in_a_ball(p):
    layer = jl.Embedding(5, 3, max_norm=0.9, p=p)
    check(InABall(0.9, p), layer, IDS, convert.torch_embedding)
    # What PyTorch's own module gives, which writes to its table as it reads.
    module = nn.Embedding(5, 3, max_norm=0.9, norm_type=p, **F64)
    table = load_random(module)["weight"]
    y, _ = layer.apply({"embedding": table}, {}, IDS)
    np.testing.assert_allclose(y, module(torch.tensor(IDS)).detach(), rtol=1e-12)


def test_tied():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4, **F64)
            self.lstm = nn.LSTM(4, 4, batch_first=True, **F64)
            self.bias = nn.Parameter(torch.zeros(5, **F64))

        def forward(self, ids):
            hidden, _ = self.lstm(self.embedding(ids))
            return nn.functional.linear(hidden, self.embedding.weight, self.bias)

    def conversion(weights):
        lstm = {
            name.removeprefix("lstm."): value
            for name, value in weights.items()
            if name.startswith("lstm.")
        }
        return {
            "embedding": {"embedding": weights["embedding.weight"]},
            "layer": convert.torch_rnn()(lstm),
            "bias": weights["bias"],
        }

    check(Model(), jl.tied(jl.Embedding(5, 4), jl.LSTM(4), bias=True), IDS, conversion)


BAGS = {
    "bags of one size": (IDS, None),
    "flat": (IDS.reshape(-1), np.array([0, 3, 3, 5])),
    "flat, the last bag empty": (IDS.reshape(-1), np.array([0, 1, 8])),
}


@pytest.mark.parametrize("form", BAGS)
@pytest.mark.parametrize("padding_id", [None, 1, -1])
@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_embedding_bag(mode, padding_id, form):
    ids, offsets = BAGS[form]

    class Bag(nn.EmbeddingBag):
        def forward(self, ids):
            return super().forward(ids, None if offsets is None else torch.tensor(offsets))

    module = Bag(5, 3, mode=mode, padding_idx=padding_id, **F64)
    layer = jl.EmbeddingBag(5, 3, mode=mode, padding_id=padding_id)
    of = jl.compose(
        lambda f, x: f.bag(x if offsets is None else {"ids": x, "offsets": jnp.asarray(offsets)}),
        bag=layer,
    )
    check(module, of, ids, lambda weights: {"bag": convert.torch_embedding(weights)})


@pytest.mark.parametrize("form", BAGS)
@pytest.mark.parametrize("padding_id", [None, 1])
def test_embedding_bag_of_weighted_ids(padding_id, form):
    ids, offsets = BAGS[form]

    class Bag(nn.EmbeddingBag):
        def forward(self, weights):
            starts = None if offsets is None else torch.tensor(offsets)
            return super().forward(torch.tensor(ids), starts, weights)

    module = Bag(5, 3, mode="sum", padding_idx=padding_id, **F64)
    given = {"ids": jnp.asarray(ids)} | (
        {} if offsets is None else {"offsets": jnp.asarray(offsets)}
    )
    layer = jl.compose(
        lambda f, weights: f.bag({**given, "weights": weights}),
        bag=jl.EmbeddingBag(5, 3, mode="sum", padding_id=padding_id),
    )
    check(module, layer, ids.shape, lambda weights: {"bag": convert.torch_embedding(weights)})


class Mixtral(nn.Module):
    """The sparse block of Mixtral (Jiang et al., 2024, arXiv:2401.04088)."""

    def __init__(self, num_experts, top_k, renormalize):
        super().__init__()
        self.top_k, self.renormalize = top_k, renormalize
        self.gate = nn.Linear(4, num_experts, bias=False, **F64)
        self.w1 = nn.ModuleList(nn.Linear(4, 6, bias=False, **F64) for _ in range(num_experts))
        self.w2 = nn.ModuleList(nn.Linear(6, 4, bias=False, **F64) for _ in range(num_experts))
        self.w3 = nn.ModuleList(nn.Linear(4, 6, bias=False, **F64) for _ in range(num_experts))

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        gates, chosen = torch.topk(torch.softmax(self.gate(tokens), -1), self.top_k)
        if self.renormalize:
            gates = gates / gates.sum(-1, keepdim=True)
        y = torch.zeros_like(tokens)
        for expert, (w1, w2, w3) in enumerate(zip(self.w1, self.w2, self.w3, strict=True)):
            rows, place = torch.where(chosen == expert)
            hidden = nn.functional.silu(w1(tokens[rows])) * w3(tokens[rows])
            y = y.index_add(0, rows, w2(hidden) * gates[rows, place, None])
        return y.reshape(x.shape)


@pytest.mark.parametrize(("top_k", "renormalize"), [(2, True), (2, False), (1, False), (3, True)])
@pytest.mark.parametrize("capacity_factor", [None, 8.0])
def test_mixtral(capacity_factor, top_k, renormalize):
    num_experts = 4
    gated = jl.multiply(jl.serial(jl.Dense(6, bias=False), jax.nn.silu), jl.Dense(6, bias=False))
    layer = jl.MixtureOfExperts(
        jl.serial(gated, jl.Dense(4, bias=False)),
        num_experts,
        top_k=top_k,
        renormalize=renormalize,
        capacity_factor=capacity_factor,
    )

    def conversion(weights):
        def stacked(name):
            kernels = [weights[f"{name}.{i}.weight"].T for i in range(num_experts)]
            return {"kernel": jnp.stack(kernels)}

        experts = {
            "multiply": {"serial": {"dense": stacked("w1")}, "dense": stacked("w3")},
            "dense": stacked("w2"),
        }
        return {"router": {"kernel": weights["gate.weight"].T}, "experts": experts}

    check(Mixtral(num_experts, top_k, renormalize), layer, (3, 20, 4), conversion)
