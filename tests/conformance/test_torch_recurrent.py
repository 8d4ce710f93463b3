"""Recurrent layers on rows of different lengths against PyTorch's packed sequences, in float64."""

import jax
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")

from oracles.against_torch import F64, load_random, reference  # noqa: E402

nn = torch.nn
rnn = nn.utils.rnn

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]
# PyTorch takes no row of length zero.
LENGTHS = [3, 5, 1, 4]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def outputs(module, x):
    """All steps, zeros in the padding."""
    packed = rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    return rnn.pad_packed_sequence(module(packed)[0], batch_first=True)[0]


def ends(module, x):
    """The last hidden states, those of both directions side by side."""
    packed = rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    hidden = module(packed)[1]
    return torch.cat(tuple(hidden[0] if isinstance(hidden, tuple) else hidden), -1)


def projected(suffix="l0"):
    """PyTorch keeps (proj_size, hidden)."""

    def convert_(weights):
        kernel = weights[f"weight_hr_{suffix}"].T
        return {**convert.torch_rnn(suffix)(weights), "projection_kernel": kernel}

    return convert_


# torch module, its options, our layer of the same options, conversion
LAYERS = {
    "LSTM": (nn.LSTM, {}, jl.LSTM, convert.torch_rnn),
    "LSTM, projection": (
        nn.LSTM,
        {"proj_size": 2},
        lambda n, **options: jl.LSTM(n, projection=2, **options),
        projected,
    ),
    "GRU": (nn.GRU, {}, jl.GRU, convert.torch_gru),
    "RNN, relu": (
        nn.RNN,
        {"nonlinearity": "relu"},
        lambda n, **options: jl.SimpleRNN(n, activation=jax.nn.relu, **options),
        convert.torch_rnn,
    ),
}


def check(module, layer, conversion, around):
    """Values, zeros in the padding among them, and gradients; NaN in our padding."""
    apply = jl.without_state(layer).apply
    x = convert.draw_input((4, 5, 4), "float64")
    weights = load_random(module)
    wanted = reference(module, lambda x: around(module, x), x)
    padding = np.arange(5) >= np.array(LENGTHS)[:, None]
    padding = np.broadcast_to(padding[..., None], x.shape)

    def ours(weights, x):
        x = jl.Sequence.from_lengths(jax.numpy.where(padding, np.nan, x), np.array(LENGTHS))
        y = apply(conversion(weights), x)
        return y.fill() if isinstance(y, jl.Sequence) else y

    convert.agree(wanted, convert.value_and_gradients(ours, weights, x))


@pytest.mark.parametrize("around", [outputs, ends])
@pytest.mark.parametrize("both_ways", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("name", LAYERS)
def test_packed_sequence(name, both_ways, around):
    make, options, ours, conversion = LAYERS[name]
    module = make(4, 3, batch_first=True, bidirectional=both_ways, **options, **F64)
    layer = ours(3, return_sequences=around is outputs)
    if both_ways:
        layer, conversion = jl.bidirectional(layer), convert.torch_bidirectional(conversion)
    else:
        conversion = conversion()
    check(module, layer, conversion, around)


def test_layers_on_layers():
    """Outside training, where there is no dropout between them."""
    module = nn.LSTM(4, 3, 2, batch_first=True, bidirectional=True, dropout=0.5, **F64).eval()
    parts = {
        name: convert.torch_bidirectional(convert.torch_rnn, layer)
        for layer, name in enumerate(("below", "above"))
    }
    layer = jl.serial(
        below=jl.bidirectional(jl.LSTM(3)),
        dropout=jl.Dropout(0.5, shared_axes=1),
        above=jl.bidirectional(jl.LSTM(3)),
    )
    check(module, layer, lambda w: {name: f(w) for name, f in parts.items()}, outputs)
