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

pytestmark = pytest.mark.conformance


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
