"""Activations against PyTorch's modules: every row of the table in the docs, and RReLU."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jlayers as jl

torch = pytest.importorskip("torch")
nn = torch.nn

from oracles.against_torch import check  # noqa: E402

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "library" / "activation.md"
ROWS = dict(re.findall(r"^\| `(nn\..*)` \| `(.*)` \|$", PAGE.read_text(), re.M))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class HardSigmoid(nn.Module):
    """``nn.Hardsigmoid``, whose gradient of float64 is a sixth in float32 (PyTorch 2.13)."""

    def forward(self, x):
        y = nn.functional.relu6(x + 3) / 6
        torch.testing.assert_close(y, nn.functional.hardsigmoid(x), rtol=1e-12, atol=0)
        return y


EXACT = {"nn.Hardsigmoid()": HardSigmoid()}


def test_the_table_is_read():
    assert len(ROWS) >= 30


@pytest.mark.parametrize("theirs", ROWS)
def test_a_row_of_the_table(theirs):
    module = EXACT.get(theirs) or eval(theirs, {"nn": nn})
    ours = eval(ROWS[theirs], {"jax": jax, "jnp": jnp, "functools": functools})
    check(module, jl.lift(ours), (3, 4, 6))


@pytest.mark.parametrize("limits", [(), (0.1, 0.4)])
def test_rrelu(limits):
    module = nn.RReLU(*limits).eval()
    check(module, jl.RReLU(*limits), (3, 4, 6))
    # In training both draw slopes uniformly between the limits.
    x = np.full(20_000, -1.0)
    ours, _ = jl.RReLU(*limits).apply({}, {}, x, key=jax.random.key(0), train=True)
    torch.manual_seed(0)
    theirs = module.train()(torch.tensor(x)).numpy()
    for statistic in (np.min, np.max, np.mean, np.std):
        np.testing.assert_allclose(statistic(np.asarray(ours)), statistic(theirs), rtol=0.02)
