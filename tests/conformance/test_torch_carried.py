"""States in and out of recurrent layers against PyTorch's (h_0, c_0) and (h_n, c_n), in float64."""

import jax
import numpy as np
import pytest
from oracles import convert

import jlayers as jl

torch = pytest.importorskip("torch")

from oracles.against_torch import F64, load_random  # noqa: E402

nn = torch.nn
rnn = nn.utils.rnn

pytestmark = [pytest.mark.conformance, pytest.mark.oracle("PyTorch")]
# PyTorch takes no row of length zero.
LENGTHS = [3, 5, 1, 4]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def theirs(module, x, states, packed):
    """Outputs, states and all gradients, those in the first states among them."""
    x, *states = (torch.tensor(value, requires_grad=True) for value in (x, *states))
    given = x
    if packed:
        given = rnn.pack_padded_sequence(x, LENGTHS, batch_first=True, enforce_sorted=False)
    y, after = module(given, states[0] if len(states) == 1 else tuple(states))
    if packed:
        y, _ = rnn.pad_packed_sequence(y, batch_first=True)
    y = (y, *(after if len(states) > 1 else (after,)))
    sum((a * torch.tensor(convert.projection(a.shape, "float64"))).sum() for a in y).backward()
    weights = {name: leaf.grad.numpy() for name, leaf in module.named_parameters()}
    slopes = {"weights": weights, "states": [state.grad.numpy() for state in states]}
    return {"y": tuple(a.detach().numpy() for a in y), "gradient": (slopes, x.grad.numpy())}


# torch module, its options, ours, its conversion, the names of its states
LAYERS = {
    "LSTM": (nn.LSTM, {}, jl.LSTM, convert.torch_rnn, "hc"),
    "GRU": (nn.GRU, {}, jl.GRU, convert.torch_gru, "h"),
    "RNN": (nn.RNN, {}, jl.SimpleRNN, convert.torch_rnn, "h"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("depth", [1, 2], ids=["one layer", "two layers"])
@pytest.mark.parametrize("both_ways", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("name", LAYERS)
def test_states_in_and_out(name, both_ways, depth, packed):
    make, options, ours, conversion, states = LAYERS[name]
    module = make(4, 3, depth, batch_first=True, bidirectional=both_ways, **options, **F64)
    layers = [f"l{i}" for i in range(depth)]
    one = jl.bidirectional(ours(3)) if both_ways else ours(3)
    layer = jl.carried(jl.serial(**dict.fromkeys(layers, one)))
    # PyTorch's order: layer by layer, forwards and backwards.
    ways = [(name, way) for name in layers for way in (("forward", "backward")[: 1 + both_ways])]

    def to_carry(values):
        carry = {name: {} for name in layers}
        for i, (name, way) in enumerate(ways):
            entry = {state: value[i] for state, value in zip(states, values, strict=True)}
            carry[name] = {**carry[name], way: entry} if both_ways else entry
        return carry

    def of_carry(carry, state):
        found = [carry[name][way] if both_ways else carry[name] for name, way in ways]
        return jax.numpy.stack([entry[state] for entry in found])

    def of_weights(weights):
        if both_ways:
            return {
                name: convert.torch_bidirectional(conversion, i)(weights)
                for i, name in enumerate(layers)
            }
        return {name: conversion(name)(weights) for name in layers}

    def run(given, x):
        if packed:
            padding = np.arange(5) >= np.array(LENGTHS)[:, None]
            x = jax.numpy.where(padding[..., None], np.nan, x)
            x = jl.Sequence.from_lengths(x, np.array(LENGTHS))
        params = of_weights(given["weights"])
        (y, carry), _ = layer.apply(params, {}, (x, to_carry(given["states"])))
        y = y.fill() if packed else y
        return (y, *(of_carry(carry, state) for state in states))

    x = convert.draw_input((4, 5, 4), "float64")
    weights = load_random(module)
    shape = (len(ways), 4, 3)
    first = [np.random.default_rng(i).normal(size=shape) for i in range(len(states))]
    wanted = theirs(module, x, first, packed)
    got = convert.value_and_gradients(run, {"weights": weights, "states": first}, x)
    convert.agree(wanted, got)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_decoder_goes_on_where_the_encoder_ended(steps):
    """Sutskever et al. (2014): the encoder's last states are the decoder's first."""
    encoder = nn.LSTM(4, 3, batch_first=True, **F64)
    decoder = nn.LSTM(2, 3, batch_first=True, **F64)
    weights = load_random(encoder), load_random(decoder)
    x, started = convert.draw_input((4, 5, 4), "float64"), np.ones((4, steps, 2))
    packed = rnn.pack_padded_sequence(
        torch.tensor(x), LENGTHS, batch_first=True, enforce_sorted=False
    )
    wanted, (h, c) = decoder(torch.tensor(started), encoder(packed)[1])

    def translate(f, inputs):
        target, source = inputs
        _, carry = f.encoder(source)
        return f.decoder((target, carry))

    model = jl.compose(translate, encoder=jl.carried(jl.LSTM(3)), decoder=jl.carried(jl.LSTM(3)))
    params = {
        name: convert.torch_rnn()(given)
        for name, given in zip(("encoder", "decoder"), weights, strict=True)
    }
    source = jl.Sequence.from_lengths(x, np.array(LENGTHS))
    (y, carry), _ = model.apply(params, {}, (started, source))
    for got, expected in ((y, wanted), (carry["h"], h[0]), (carry["c"], c[0])):
        np.testing.assert_allclose(got, expected.detach().numpy(), rtol=0, atol=1e-12)
