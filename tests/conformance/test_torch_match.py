"""interop.match: networks of PyTorch, their state_dict matched and loaded, give the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.torch_modules import Attention, Rows

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]


class AlbertAttention(nn.Module):
    """With the names of ALBERT's, which has the projection of the output beside the others."""

    def __init__(self):
        super().__init__()
        for name in ("query", "key", "value", "dense"):
            setattr(self, name, nn.Linear(6, 6))

    def forward(self, x):
        maps = self.query, self.key, self.value
        heads = [project(x).unflatten(-1, (2, 3)).transpose(1, 2) for project in maps]
        y = nn.functional.scaled_dot_product_attention(*heads)
        return self.dense(y.transpose(1, 2).flatten(2))


class Cell(nn.Module):
    """A cell, step by step."""

    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        state, outputs = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1)


SAME = {"padding": 1}
CASES = {
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 6, 3, **SAME),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=2, **SAME),
            nn.GroupNorm(2, 6),
            nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2),
            nn.Flatten(),
            nn.Linear(4 * 8 * 6, 5),
        ),
        jl.serial(
            jl.Conv(6, 3, **SAME),
            jl.BatchNorm(),
            jax.nn.relu,
            jl.Conv(6, 3, groups=2, **SAME),
            jl.GroupNorm(2),
            jl.ConvTranspose(4, 2, strides=2, groups=2),
            jl.Flatten(),
            jl.Dense(5),
        ),
        (2, 4, 3, 4),
    ),
    "two layers of lstm, both directions": (
        lambda: nn.Sequential(
            Rows(nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)), nn.Linear(6, 6)
        ),
        jl.serial(jl.bidirectional(jl.LSTM(3)), jl.bidirectional(jl.LSTM(3)), jl.Dense(6)),
        (2, 5, 4),
    ),
    "cells": (
        lambda: nn.Sequential(
            Cell(nn.LSTMCell(4, 3)), Cell(nn.GRUCell(3, 5)), Cell(nn.RNNCell(5, 2))
        ),
        jl.serial(jl.LSTM(3), jl.GRU(5), jl.SimpleRNN(2)),
        (2, 5, 4),
    ),
    "attention of albert": (
        lambda: nn.Sequential(nn.Linear(4, 6), AlbertAttention()),
        jl.serial(jl.Dense(6), jl.SelfAttention(2)),
        (2, 5, 4),
    ),
    "gru, attention": (
        lambda: nn.Sequential(
            Rows(nn.GRU(4, 6, batch_first=True)), nn.LayerNorm(6), Attention(), nn.PReLU()
        ),
        jl.serial(jl.GRU(6), jl.LayerNorm(), jl.SelfAttention(2, bias=True), jl.PReLU()),
        (2, 5, 4),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict(name):
    make, ours, shape = CASES[name]
    torch.manual_seed(0)
    theirs = make()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    given = torch.tensor(np.moveaxis(x, -1, 1) if len(shape) == 4 else x)
    theirs.train()
    theirs(3 * given + 1)  # statistics of their own
    theirs.eval()
    arrays = {key: value.numpy() for key, value in theirs.state_dict().items()}
    plan = jl.interop.match(ours, jnp.asarray(x), arrays)
    assert plan.library == "torch"
    y, _ = jax.jit(ours.apply)(*plan.load(), x)
    want = theirs(given).detach().numpy()
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


def test_a_state_dict_of_tensors():
    """Tied tensors are one array, as in a file."""
    table, output = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    output.weight = table.weight
    theirs = nn.ModuleDict({"wte": table, "head": output}).state_dict()
    model, ids = jl.tied(jl.Embedding(5, 3), jl.LayerNorm(bias=False)), jl.spec((1, 2), jnp.int32)
    theirs["norm.weight"] = torch.ones(3)
    params, _ = jl.interop.match(model, ids, theirs).load()
    np.testing.assert_array_equal(params["embedding"]["embedding"], table.weight.detach())


def test_tensors_without_a_view():
    half = nn.Linear(3, 2).bfloat16().state_dict()
    plan = jl.interop.match(jl.Dense(2), jl.spec((1, 3)), half)
    assert plan.complete
    with pytest.raises(jl.InteropError, match="'weight' cannot be read as an array") as error:
        plan.load()
    assert "hint:     tensor.detach().float().numpy()" in str(error.value)


def test_convolutions_and_norms_of_images_with_other_axes():
    """Audio as images of one column, norms over channels too, and all of an image in one step."""
    torch.manual_seed(0)
    theirs = nn.Sequential(
        *(nn.Conv2d(2, 4, (5, 1)), nn.LayerNorm((4, 5, 1)), nn.Conv2d(4, 3, 1)),
        *(nn.LayerNorm((3, 5, 1)), nn.Conv2d(3, 6, (5, 1)), nn.Flatten()),
    )
    for norm in (theirs[1], theirs[3]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = np.random.default_rng(0).standard_normal((2, 9, 2)).astype("float32")
    want = theirs(torch.from_numpy(x).permute(0, 2, 1)[..., None]).detach().numpy()
    one, two = (jl.LayerNorm(axis=(1, 2), feature_axes=(1, 2)) for _ in range(2))
    model = jl.serial(jl.Conv(4, 5), one, jl.Dense(3), two, jl.Flatten(), jl.Dense(6))
    arrays = theirs.state_dict()
    for name in ("1", "3"):
        # Without the column, which is an axis of the norms there.
        arrays |= {
            f"{name}.{part}": arrays[f"{name}.{part}"][..., 0] for part in ("weight", "bias")
        }
    params, state = jl.interop.match(model, x, arrays).load()
    y, _ = jax.jit(model.apply)(params, state, x)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
